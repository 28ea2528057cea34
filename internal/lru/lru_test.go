package lru

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLeastRecentlyUsedIsEvicted(t *testing.T) {
	c := New[string, int](2, 0)
	c.Add("a", 1)
	c.Add("b", 2)
	if v, ok := c.Get("a"); !ok || v != 1 {
		t.Errorf("a is %d, %v", v, ok)
	}
	c.Add("c", 3)
	if _, ok := c.Get("b"); ok {
		t.Error("b is still there: it was used before a")
	}
	c.Add("a", 4)
	if v, _ := c.Get("a"); v != 4 || c.Len() != 2 {
		t.Errorf("a is %d in %d entries, want 4 in 2", v, c.Len())
	}
}

func TestGetOrAddCreatesOnce(t *testing.T) {
	c := New[string, int](2, 0)
	created := 0
	for range 3 {
		created = c.GetOrAdd("a", func() int { return created + 1 })
	}
	if created != 1 {
		t.Errorf("created %d times", created)
	}
}

func TestEntriesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[string, int](2, time.Minute)
		c.Add("a", 1)
		time.Sleep(time.Minute - time.Nanosecond)
		if _, ok := c.Get("a"); !ok {
			t.Error("it expired early")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := c.Get("a"); ok || c.Len() != 0 {
			t.Errorf("it is found after its lifetime, %d entries", c.Len())
		}
	})
}
