package directive

import "strconv"

// Block walks the block of the current option. Its End hands its error on.
func (w *Walker) Block() *Walker {
	if w.d.NextArg() {
		w.Failf("unexpected %q: %s takes a block", w.d.Val(), w.name)
	}
	inner := Options(w.d)
	inner.outer, inner.err = w, w.err
	return inner
}

// End ends the walk of an option's block.
func (w *Walker) End() {
	if w.outer.err == nil {
		w.outer.err = w.err
	}
}

// Remaining returns the number of arguments that are left.
func (w *Walker) Remaining() int { return w.d.CountRemainingArgs() }

// maxCount bounds whole numbers.
const maxCount = 1 << 20

// Count reads a whole number of at least so much.
func (w *Walker) Count(dst *int, least int) {
	s, ok := w.Arg("a number")
	if !ok {
		return
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > maxCount {
		w.Failf("%s is %q: it must be a whole number from %d to %d", w.name, s, least, maxCount)
	}
	*dst = n
}

// Number reads a number within bounds.
func (w *Walker) Number(dst *float64, least, most float64) {
	s, ok := w.Arg("a number")
	if !ok {
		return
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= least && n <= most) {
		w.Failf("%s is %q: it must be a number from %v to %v", w.name, s, least, most)
	}
	*dst = n
}
