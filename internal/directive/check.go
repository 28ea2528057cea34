package directive

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
)

// leastSize is the least a size may be in bytes. No webhook fits into less, and a
// number that is less was meant as one of KiB or MiB.
const leastSize = 1 << 10

// Check judges the numbers of a configuration that came as JSON by the bounds that
// the Caddyfile holds them to: durations, of which a bare number counts
// nanoseconds, sizes, which are the fields of type int64, and counts, which are
// those of type int. 0 stands for the default and [Off] for off; whether an option
// can be off is for its owner to say.
//
// config is a pointer to a struct. The error names the option as it is in JSON.
func Check(config any) error {
	return check(reflect.ValueOf(config).Elem(), "")
}

var (
	caddyDuration = reflect.TypeFor[caddy.Duration]()
	plainDuration = reflect.TypeFor[duration.Duration]()
	sizeType      = reflect.TypeFor[int64]()
	countType     = reflect.TypeFor[int]()
)

func check(v reflect.Value, within string) error {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if name == "" && !field.Anonymous {
			continue
		}
		if within != "" && name != "" {
			name = within + "." + name
		}
		var err error
		switch {
		case field.Type == caddyDuration, field.Type == plainDuration:
			err = checkDuration(name, time.Duration(value.Int()))
		case field.Type.Kind() == reflect.Slice && field.Type.Elem() == plainDuration:
			for i := range value.Len() {
				if d := time.Duration(value.Index(i).Int()); d <= 0 {
					err = errors.Join(err, fmt.Errorf("%s[%d] is %s: it must be positive", name, i, d))
				} else {
					err = errors.Join(err, checkDuration(fmt.Sprintf("%s[%d]", name, i), d))
				}
			}
		case field.Type == sizeType:
			err = checkSize(name, value.Int())
		case field.Type == countType:
			if n := value.Int(); n < Off || n > maxCount {
				err = fmt.Errorf("%s is %d: it must be a whole number of at most %d", name, n, maxCount)
			}
		case field.Type.Kind() == reflect.Struct:
			err = check(value, name)
		case field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct && !value.IsNil():
			err = check(value.Elem(), name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDuration refuses what is shorter than a millisecond, as a duration is that
// was given as a number of seconds.
func checkDuration(name string, d time.Duration) error {
	switch {
	case d == 0 || d == Off:
		return nil
	case d < 0:
		return fmt.Errorf("%s is %s: it must be positive", name, d)
	case d < time.Millisecond:
		return fmt.Errorf(`%s is %s: write "%ds" for %[3]d seconds; a number without a unit counts nanoseconds, and the least is 1ms`, name, d, int64(d))
	}
	return nil
}

func checkSize(name string, n int64) error {
	switch {
	case n == 0:
		return nil
	case n < 0:
		return fmt.Errorf("%s is %d: it must be positive", name, n)
	case n < leastSize:
		return fmt.Errorf("%s is %d bytes: the least is 1KiB; write %[2]dMiB in a Caddyfile and %d in JSON for %[2]d MiB", name, n, n<<20)
	case n > maxSize:
		return fmt.Errorf("%s is %d bytes: the most is 1TiB", name, n)
	}
	return nil
}
