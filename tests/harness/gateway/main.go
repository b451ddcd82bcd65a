// The reference for tests: a grpc-gateway as its authors generate it, in front of the service.
// Arguments: host:port of the service, ca.crt, tls.crt, tls.key of a client. Prints the port it listens on.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // else details of statuses cannot be written
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	v1 "gateway/jobworker/v1"
)

func main() {
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(os.Args[2])
	check(err)
	roots.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
	check(err)
	secure := credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "localhost"})
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(secure))
	check(err)
	mux := runtime.NewServeMux(runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
		if strings.EqualFold(name, "x-correlation-id") {
			return "x-correlation-id", true
		}
		return runtime.DefaultHeaderMatcher(name)
	}))
	ctx := context.Background()
	check(v1.RegisterAuthServiceHandler(ctx, mux, connection))
	check(v1.RegisterJobScheduleServiceHandler(ctx, mux, connection))
	check(v1.RegisterJobQueryServiceHandler(ctx, mux, connection))
	check(v1.RegisterAdminServiceHandler(ctx, mux, connection))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	check(http.Serve(listener, mux))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
