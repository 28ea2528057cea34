package secret

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// readInterval is the time between two reads of a file. A change is used once
	// two reads in a row found it, so that a file which is just being written
	// is not taken for whole: that is within 10 s of the change.
	readInterval = 5 * time.Second
	// logInterval is the time between two log lines about one file that can't be
	// used.
	logInterval = 10 * time.Minute
)

// Watcher reads the secrets of one configuration that are in files again, and
// passes changed ones to their users. Reading again, in place of notifications of
// the kernel, works alike for files that are written in place, renamed over,
// or reached by a symbolic link that is switched, on any file system.
type Watcher struct {
	logger *zap.Logger

	mu      sync.Mutex
	watched []*watched
	stop    chan struct{} // nil before Start
	stopped bool
}

// watched is a secret that is read again.
type watched struct {
	option, name, configured string
	use                      func(string) error

	last  finding   // what the last read found
	value string    // in use
	read  time.Time // when value was last found in its file

	problem  string    // why what was found is not in use, "" when it is
	loggedAt time.Time // when that was last logged
}

// finding is the result of a read. It is comparable.
type finding struct{ value, problem string }

// NewWatcher returns a watcher that logs to logger.
func NewWatcher(logger *zap.Logger) *Watcher { return &Watcher{logger: logger} }

// Use reads a configured secret, checks it by [Check] and passes it to use, now and
// whenever its file has changed. An error of use means that the value can't be used:
// the one before is kept then. It must not quote the value. name names the secret in
// the log, option in metrics.
//
// The error is that of the first read or the first use.
func (w *Watcher) Use(option, name, configured string, use func(value string) error) error {
	value, files, err := expand(configured)
	if err == nil {
		err = Check(value)
	}
	if err != nil {
		return err
	}
	if !isPlaceholder(configured) {
		w.logger.Warn(Warning(name))
	}
	if err := use(value); err != nil {
		return err
	}
	if files {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.watched = append(w.watched, &watched{
			option: option, name: name, configured: configured, use: use,
			last: finding{value: value}, value: value, read: time.Now(),
		})
	}
	return nil
}

// Start begins to read files again. Only the first call does anything.
func (w *Watcher) Start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil || w.stopped || len(w.watched) == 0 {
		return
	}
	w.stop = make(chan struct{})
	go w.loop(w.stop)
}

// Stop ends that without waiting. It is idempotent.
func (w *Watcher) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil && !w.stopped {
		close(w.stop)
	}
	w.stopped = true
}

func (w *Watcher) loop(stop <-chan struct{}) {
	tick := time.NewTicker(readInterval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		w.readAll()
	}
}

// readAll reads every secret once more. It holds no lock while it reads: a file
// system that hangs must not hold up calls of Ages.
func (w *Watcher) readAll() {
	w.mu.Lock()
	watched := w.watched
	w.mu.Unlock()
	for _, s := range watched {
		var found finding
		value, _, err := expand(s.configured)
		if err == nil {
			err = Check(value)
		}
		if found.value = value; err != nil {
			found.problem = err.Error()
		}
		w.mu.Lock()
		s.consider(found, w.logger)
		w.mu.Unlock()
	}
}

// Ages returns for each option how long ago the secrets in use were last found
// in their files, of several secrets the longest time.
func (w *Watcher) Ages() map[string]time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	ages := make(map[string]time.Duration)
	for _, s := range w.watched {
		ages[s.option] = max(ages[s.option], time.Since(s.read))
	}
	return ages
}

// Problems returns which secrets in use differ from their files.
func (w *Watcher) Problems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, s := range w.watched {
		if s.problem != "" {
			out = append(out, s.name+": "+s.problem)
		}
	}
	return out
}

// consider decides what follows from a read.
func (s *watched) consider(found finding, logger *zap.Logger) {
	settled := found == s.last
	s.last = found
	switch {
	case found.problem != "" && settled:
		s.keepValue(logger, found.problem)
	case found.problem != "":
	case found.value == s.value:
		s.read = time.Now()
		s.recovered(logger)
	case settled:
		if err := s.use(found.value); err != nil {
			s.keepValue(logger, err.Error())
			return
		}
		s.value, s.read = found.value, time.Now()
		logger.Info("a secret has changed in its file: the new one is in use", zap.String("secret", s.name))
		s.recovered(logger)
	}
}

// keepValue notes that the value in use stays in use, and why.
func (s *watched) keepValue(logger *zap.Logger, problem string) {
	now := time.Now()
	if problem == s.problem && now.Sub(s.loggedAt) < logInterval {
		return
	}
	s.problem, s.loggedAt = problem, now
	logger.Warn("a secret can't be taken from its file: the one read before stays in use",
		zap.String("secret", s.name), zap.String("problem", problem), zap.Duration("age", now.Sub(s.read)))
}

// recovered notes that the file holds the value in use.
func (s *watched) recovered(logger *zap.Logger) {
	if s.problem != "" {
		s.problem = ""
		logger.Info("a secret is read from its file again", zap.String("secret", s.name))
	}
}
