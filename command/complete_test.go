package command

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fileFlags are the flags that name files.
var fileFlags = map[string]bool{"config": true, "headers": true, "body": true, "from": true}

// TestCompletion: shells offer the values of flags that take a few, each of
// which the flag's help names, and files only where files are meant.
func TestCompletion(t *testing.T) {
	top := &cobra.Command{Use: "replicate-webhook"}
	build(top)
	enumerated, flags := 0, 0
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		_, directive := cmd.ValidArgsFunction, cobra.ShellCompDirectiveDefault
		if cmd.ValidArgsFunction != nil {
			_, directive = cmd.ValidArgsFunction(cmd, nil, "")
		}
		if got, want := directive == cobra.ShellCompDirectiveDefault, strings.Contains(cmd.Use, "<file>"); got != want {
			t.Errorf("%s: files are offered as arguments: %v, want %v", cmd.CommandPath(), got, want)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			flags++
			offer, ok := cmd.GetFlagCompletionFunc(f.Name)
			if !ok {
				t.Errorf("%s --%s has no completion", cmd.CommandPath(), f.Name)
				return
			}
			values, directive := offer(cmd, nil, "")
			if got, want := directive == cobra.ShellCompDirectiveDefault, fileFlags[f.Name]; got != want {
				t.Errorf("%s --%s: files are offered: %v, want %v", cmd.CommandPath(), f.Name, got, want)
			}
			listed := f.Value.Type() == "string" && (strings.Contains(f.Usage, " or failed") || strings.Contains(f.Usage, " or disabled") ||
				strings.Contains(f.Usage, " or canceled") || strings.Contains(f.Usage, " or standard") || strings.Contains(f.Usage, " or any") || strings.Contains(f.Usage, " or none"))
			if listed != (len(values) > 0) {
				t.Errorf("%s --%s, %q: offers %q", cmd.CommandPath(), f.Name, f.Usage, values)
			}
			if listed {
				enumerated++
			}
			for _, v := range values {
				if !strings.Contains(f.Usage, v) {
					t.Errorf("%s --%s offers %q, its help is %q", cmd.CommandPath(), f.Name, v, f.Usage)
				}
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(top)
	if enumerated < 9 || flags < 40 {
		t.Errorf("saw %d flags, %d of them with values", flags, enumerated)
	}
}

// TestSuggestions: an error on a misspelled command or flag names the one that
// was meant.
func TestSuggestions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"delivieries", `unknown command "delivieries" for "replicate-webhook": did you mean deliveries? 'replicate-webhook --help' lists the commands`},
		{"deliveries shwo", "did you mean show? 'replicate-webhook deliveries --help' lists the commands"},
		{"redeliver", "did you mean deliveries redeliver? "},
		{"deliveries status", "did you mean status? "},
		{"nonsense", `unknown command "nonsense" for "replicate-webhook": 'replicate-webhook --help' lists the commands`},
		{"status now", "'replicate-webhook status' takes no arguments"},
		{"deliveries --stat failed", "unknown flag: --stat: did you mean --state? 'replicate-webhook deliveries --help' lists the flags"},
		{"predictions --staus failed", "did you mean --status? "},
		{"send --evnt failed http://localhost", "did you mean --event? "},
		{"endpoints reset --jsno x", "did you mean --json? "},
		{"demo --forever", "unknown flag: --forever: 'replicate-webhook demo --help' lists the flags"},
	} {
		cmd := &cobra.Command{Use: "replicate-webhook", SilenceErrors: true, SilenceUsage: true}
		build(cmd)
		cmd.SetArgs(strings.Fields(c.args))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
}
