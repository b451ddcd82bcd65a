{{- define "jobworker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters: a StatefulSet's pods carry its name and a hash in a label of at most 63. */}}
{{- define "jobworker.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "jobworker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "jobworker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jobworker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "jobworker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "jobworker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "jobworker.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The name of an image, from its values and the chart. */}}
{{- define "jobworker.image" -}}
{{- $image := index . 0 -}}
{{- $chart := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $chart.AppVersion $image.tag }}
{{- end -}}
{{- end }}

{{/* A map as TOML. A number is written as JSON does, which knows no 1e+06; a string of JSON is one of TOML. */}}
{{- define "jobworker.toml" -}}
{{- $tree := index . 0 -}}
{{- $section := index . 1 -}}
{{- range $key, $value := $tree }}
{{- if and (not (kindIs "map" $value)) (not (kindIs "invalid" $value)) }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- range $key, $value := $tree }}
{{- if kindIs "map" $value }}
{{- $name := ternary $key (printf "%s.%s" $section $key) (eq $section "") }}

[{{ $name }}]
{{- include "jobworker.toml" (list $value $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What of the configuration takes a restart. A key that files/live-keys.yaml does not name is taken to. */}}
{{- define "jobworker.restartConfig" -}}
{{- $live := .Files.Get "files/live-keys.yaml" | fromYamlArray -}}
{{- range $key, $value := .Values.config }}
{{- if kindIs "map" $value }}
{{- range $inner, $innerValue := $value }}
{{- if not (has (printf "%s.%s" $key $inner) $live) }}
{{ $key }}.{{ $inner }}={{ $innerValue | toJson }}
{{- end }}
{{- end }}
{{- else if not (has $key $live) }}
{{ $key }}={{ $value | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- define "jobworker.graceSeconds" -}}
{{- if not (kindIs "invalid" .Values.terminationGracePeriodSeconds) -}}
{{ int .Values.terminationGracePeriodSeconds }}
{{- else if .Values.drain.enabled -}}
{{ add (int .Values.drain.seconds) 60 }}
{{- else -}}
60
{{- end -}}
{{- end }}

{{/* Whether certificates or users live on a volume of their own. */}}
{{- define "jobworker.pkiVolume" -}}
{{- if or (ne .Values.pki.source "secret") (not .Values.pki.secret.auth) }}true{{ end }}
{{- end }}

{{/* Every name of the Service and the pod. */}}
{{- define "jobworker.serverNames" -}}
{{- $name := include "jobworker.fullname" . -}}
{{- $domain := printf "%s.svc.%s" .Release.Namespace .Values.clusterDomain -}}
{{- $short := printf "%s.%s" $name .Release.Namespace -}}
{{- $pod := printf "%s-0.%s-headless.%s" $name $name $domain -}}
{{- concat (list "localhost" $name $short (printf "%s.svc" $short) (printf "%s.%s" $name $domain) $pod) .Values.pki.names | uniq | toJson -}}
{{- end }}

{{- define "jobworker.serverSecret" -}}
{{- if eq .Values.pki.source "certManager" -}}
{{ include "jobworker.fullname" . }}-server
{{- else -}}
{{ .Values.pki.secret.server }}
{{- end -}}
{{- end }}

{{/* What else must hold, which a schema cannot say. */}}
{{- define "jobworker.check" -}}
{{- $server := .Values.server.securityContext.runAsUser -}}
{{- $executor := .Values.executor.securityContext.runAsUser -}}
{{- if eq (toString $server) (toString $executor) -}}
{{- fail "server.securityContext.runAsUser and executor.securityContext.runAsUser must differ: jobs could read the server's keys" -}}
{{- end -}}
{{- if and (eq .Values.pki.source "secret") (not .Values.pki.secret.server) -}}
{{- fail "pki.source is secret: pki.secret.server must name a Secret with ca.crt, tls.crt and tls.key" -}}
{{- end -}}
{{- if and (eq .Values.pki.source "certManager") (not .Values.pki.certManager.issuerRef.name) -}}
{{- fail "pki.source is certManager: pki.certManager.issuerRef.name must name its issuer" -}}
{{- end -}}
{{- if and .Values.drain.enabled (lt (int (include "jobworker.graceSeconds" .)) (add (int .Values.drain.seconds) 30 | int)) -}}
{{- fail "terminationGracePeriodSeconds must be at least drain.seconds + 30: the pod would be killed while it drains" -}}
{{- end -}}
{{- end }}

{{/* The PKI as the server sees it; what comes from Secrets lies over the volume. */}}
{{- define "jobworker.pkiMounts" -}}
{{- if include "jobworker.pkiVolume" . }}
- name: pki
  mountPath: /etc/jobworker/pki
{{- end }}
{{- if ne .Values.pki.source "generated" }}
- name: server-certificate
  mountPath: /etc/jobworker/pki/server
  readOnly: true
{{- end }}
{{- if and (eq .Values.pki.source "secret") .Values.pki.secret.auth }}
- name: auth
  mountPath: /etc/jobworker/pki/auth
  readOnly: true
{{- end }}
{{- end }}

{{/* The volumes that outlive a pod. */}}
{{- define "jobworker.volumes" -}}
{{- $names := list "data" "logs" -}}
{{- if include "jobworker.pkiVolume" . -}}
{{- $names = append $names "pki" -}}
{{- end -}}
{{- $names | toJson -}}
{{- end }}

{{/* Whether the StatefulSet makes claims. */}}
{{- define "jobworker.claimed" -}}
{{- range $name := include "jobworker.volumes" . | fromJsonArray -}}
{{- $volume := index $.Values.persistence $name -}}
{{- if and $volume.enabled (not $volume.existingClaim) -}}true{{- end -}}
{{- end -}}
{{- end }}
