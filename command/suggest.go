package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noArgs refuses arguments. An argument of a command that has subcommands was
// meant to be one of them, so the error suggests those that are spelled alike.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		// Not quoted: it may be a secret.
		return fmt.Errorf("'%s' takes no arguments", cmd.CommandPath())
	}
	found := similarCommands(cmd, args[0])
	for top := cmd; len(found) == 0 && top.Name() != "replicate-webhook" && top.HasParent(); {
		top = top.Parent()
		found = similarCommands(top, args[0])
	}
	return fmt.Errorf("unknown command %q for %q: %s'%[2]s --help' lists the commands", args[0], cmd.CommandPath(), didYouMean(found))
}

// similarCommands returns the commands below cmd that are spelled like a name,
// as they are written behind cmd.
func similarCommands(cmd *cobra.Command, name string) []string {
	cmd.SuggestionsMinimumDistance = suggestionDistance
	found := cmd.SuggestionsFor(name)
	if len(found) > 0 {
		return found
	}
	for _, sub := range cmd.Commands() {
		for _, s := range similarCommands(sub, name) {
			found = append(found, sub.Name()+" "+s)
		}
	}
	return found
}

// suggestionDistance is the number of letters that may differ.
const suggestionDistance = 2

// flagError returns an error of flags. For an unknown flag it suggests those
// with a similar name.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	// Cobra compares names of commands only.
	flags := &cobra.Command{SuggestionsMinimumDistance: suggestionDistance}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		flags.AddCommand(&cobra.Command{Use: "--" + f.Name, Run: func(*cobra.Command, []string) {}})
	})
	return fmt.Errorf("%w: %s'%s --help' lists the flags", err, didYouMean(flags.SuggestionsFor("--"+unknown.GetSpecifiedName())), cmd.CommandPath())
}

func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "did you mean " + strings.Join(names, " or ") + "? "
}
