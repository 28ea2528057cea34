package admin

// Described returns the routes as "<method> <path>", for the test that compares
// them with their description.
func Described() []string {
	var out []string
	for _, r := range routes {
		out = append(out, r.method+" /"+r.path)
	}
	return out
}
