package admin

// Described are the routes as "<method> <path>", for the test that holds them
// against their description.
func Described() []string {
	var out []string
	for _, r := range routes {
		out = append(out, r.method+" /"+r.path)
	}
	return out
}
