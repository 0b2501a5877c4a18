package apiserver

// Served is every name of the table, as GROUP/VERSION/NAME.
func Served() []string {
	var all []string
	for _, r := range resources() {
		for _, n := range r.names {
			all = append(all, r.version.String()+"/"+n)
		}
	}
	return all
}
