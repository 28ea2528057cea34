package directive

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
)

// The fields of a configuration that is one block of options say in their tags
// what an option takes, besides their name in json:
//
//	default:"10s"    the value of an option that is left out
//	off:"true"       a duration that can be off
//	choice:"a b"     the words that a text, or each one of a list, can be
//	arg:"a name"     what any other text is, for errors
//
// A field of type int64 is a size, and one of type int a count.

// optionName returns the name of the option that a field holds, "" for none.
func optionName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if !f.IsExported() || name == "-" {
		return ""
	}
	return name
}

// Field reads the current option into the field of its name. config is a pointer
// to a struct. The error of an unknown option lists the fields, and the others that
// the block has.
func (w *Walker) Field(config any, others ...string) {
	v := reflect.ValueOf(config).Elem()
	var known []string
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch name := optionName(f); name {
		case "":
		case w.name:
			w.read(f.Tag, v.Field(i).Addr().Interface())
			return
		default:
			known = append(known, name)
		}
	}
	known = append(known, others...)
	last := len(known) - 1
	w.Unknown(strings.Join(known[:last], ", ") + " or " + known[last])
}

func (w *Walker) read(tag reflect.StructTag, dst any) {
	switch dst := dst.(type) {
	case *string:
		if choice := tag.Get("choice"); choice != "" {
			w.Choice(dst, strings.Fields(choice)...)
		} else {
			w.Text(dst, tag.Get("arg"))
		}
	case *[]string:
		from := len(*dst)
		w.List(dst)
		for i := from; i < len(*dst) && w.err == nil; i++ {
			if problem := wrongWord(w.name, (*dst)[i], tag); problem != "" {
				w.Failf("%s", problem)
			}
		}
	case *caddy.Duration:
		if tag.Get("off") != "" {
			w.DurationOrOff(dst)
		} else {
			w.Duration(dst)
		}
	case *int64:
		w.Size(dst)
	case *int:
		w.Count(dst, 1)
	case *bool:
		w.Flag(dst)
	default:
		panic(fmt.Sprintf("directive: option %s has type %T", w.name, dst))
	}
}

// SetDefaults sets the fields of a configuration that are 0 or empty to their
// defaults. It returns an error if a text is not one of its choices, or if a
// duration is off that cannot be. config is a pointer to a struct.
func SetDefaults(config any) error {
	v := reflect.ValueOf(config).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := optionName(f)
		if name == "" {
			continue
		}
		if text := f.Tag.Get("default"); text != "" && v.Field(i).IsZero() {
			if err := setText(v.Field(i).Addr().Interface(), text); err != nil {
				panic(fmt.Sprintf("directive: the default of %s: %v", name, err))
			}
		}
		switch value := v.Field(i).Interface().(type) {
		case caddy.Duration:
			if value == Off && f.Tag.Get("off") == "" {
				return fmt.Errorf("%s is -1: it must be positive", name)
			}
		case int:
			if value < 0 {
				return fmt.Errorf("%s is %d: it must be positive", name, value)
			}
		case string:
			if problem := wrongWord(name, value, f.Tag); value != "" && problem != "" {
				return errors.New(problem)
			}
		case []string:
			for _, word := range value {
				if problem := wrongWord(name, word, f.Tag); problem != "" {
					return errors.New(problem)
				}
			}
		}
	}
	return nil
}

// wrongWord returns what is wrong with the value of an option that has to be one of the
// words of its choice, "" for nothing.
func wrongWord(option, value string, tag reflect.StructTag) string {
	words := strings.Fields(tag.Get("choice"))
	if len(words) == 0 || slices.Contains(words, value) {
		return ""
	}
	return fmt.Sprintf("%s is %q: use %s", option, value, strings.Join(words, " or "))
}

func setText(dst any, text string) error {
	switch dst := dst.(type) {
	case *string:
		*dst = text
	case *[]string:
		*dst = strings.Fields(text)
	case *caddy.Duration:
		d, err := caddy.ParseDuration(text)
		*dst = caddy.Duration(d)
		return err
	case *int:
		n, err := strconv.Atoi(text)
		*dst = n
		return err
	case *int64:
		n, err := humanize.ParseBytes(text)
		*dst = int64(n)
		return err
	default:
		return fmt.Errorf("has type %T", dst)
	}
	return nil
}
