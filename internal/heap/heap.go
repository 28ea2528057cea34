// Package heap is a priority queue of elements that know their position, so
// that any of them can be removed or reordered in logarithmic time.
//
// It is container/heap for one kind of element: an element type embeds [Node]
// and says which of two elements comes first.
package heap

// Node holds the position of an element. The zero Node is in no heap. An element
// is in one heap at a time.
type Node struct{ pos int32 } // the index plus 1

func (n *Node) node() *Node { return n }

// Queued reports whether the element is in a heap.
func (n *Node) Queued() bool { return n.pos != 0 }

// Element is a pointer to a struct that embeds [Node].
type Element[E any] interface {
	// Before reports whether the element comes before other.
	Before(other E) bool
	node() *Node
}

// Heap holds elements, the first of them at index 0. The zero value is an empty
// heap. It is not safe for concurrent use.
type Heap[E Element[E]] []E

// Push adds an element that is in no heap.
func (h *Heap[E]) Push(e E) {
	*h = append(*h, e)
	h.up(len(*h)-1, e)
}

// Pop removes the first element and returns it. The heap must not be empty.
func (h *Heap[E]) Pop() E {
	e := (*h)[0]
	h.Remove(e)
	return e
}

// Remove removes an element that is in the heap.
func (h *Heap[E]) Remove(e E) {
	list := *h
	i, last := int(e.node().pos)-1, len(list)-1
	moved := list[last]
	var none E
	list[last] = none
	*h = list[:last]
	e.node().pos = 0
	if i < last {
		h.place(i, moved)
	}
}

// Fix restores the order after the key of an element in the heap has changed.
func (h *Heap[E]) Fix(e E) { h.place(int(e.node().pos)-1, e) }

// place puts e where it belongs, beginning with the free index i.
func (h *Heap[E]) place(i int, e E) {
	if i > 0 && e.Before((*h)[(i-1)/2]) {
		h.up(i, e)
		return
	}
	h.down(i, e)
}

// up moves the free index i towards the front until e belongs there.
func (h *Heap[E]) up(i int, e E) {
	for i > 0 {
		parent := (*h)[(i-1)/2]
		if !e.Before(parent) {
			break
		}
		h.set(i, parent)
		i = (i - 1) / 2
	}
	h.set(i, e)
}

// down moves the free index i towards the end until e belongs there.
func (h *Heap[E]) down(i int, e E) {
	list := *h
	for {
		child := 2*i + 1
		if child >= len(list) {
			break
		}
		if right := child + 1; right < len(list) && list[right].Before(list[child]) {
			child = right
		}
		if !list[child].Before(e) {
			break
		}
		h.set(i, list[child])
		i = child
	}
	h.set(i, e)
}

func (h *Heap[E]) set(i int, e E) {
	(*h)[i] = e
	e.node().pos = int32(i + 1)
}
