// Prints which of the unit ids it is given Grafana does not know.
import { getValueFormat, getValueFormats } from '@grafana/data';

const known = new Set(getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value)));
// Looking one up must not throw either: it is what a panel does.
console.log(JSON.stringify(process.argv.slice(2).filter((id) => !known.has(id) || !getValueFormat(id))));
