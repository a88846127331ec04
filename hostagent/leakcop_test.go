package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rest is what a node at rest holds: the same guests in the same states, and no
// client.
type rest struct {
	at     time.Duration // since the start
	lives  int           // of guests so far
	events uint64        // so far

	exact                       // the same at each rest
	threads, series         int // bounded
	heap, anonymous, pss    int // in KiB: live objects, pages of hostagent's own, with its share of others
	descriptorNames, owners []string
	fileNames               []string
}

// exact are the counts that nothing but a leak changes between rests.
type exact struct{ descriptors, watches, goroutines, files int }

// Bounds of what is not the same at each rest.
const (
	// Live objects after two collections vary by what the runtime and ttrpc keep
	// for reuse and by which events there are: 20 KiB, on any machine. A third of
	// an hour has 2,000 lives of guests and more: 64 bytes with each are found.
	heapGrowth = 96
	// Pages beside live objects: spans that are partly used, stacks, and what each
	// thread of the runtime has.
	anonymousGrowth = 2 << 10
	// The runtime keeps the threads of the busiest moment, which may come late.
	threadGrowth = 6
	// Metrics have a series for each combination of call and outcome, once there
	// was one. A series of each guest would be many more.
	seriesGrowth = 24
	// Hub's events are bounded by a MiB, of 500 bytes each and more: from so many
	// on a new event takes an older one's place. Memory is judged only then.
	eventsKept = 2100
	// Rests in each third of those that memory is judged by: one odd one is not
	// their median.
	leastRests = 3
)

// judge names each leak that the rests of a node tell of.
func judge(rests []rest) (leaks []string) {
	for _, c := range []struct {
		what  string
		count func(rest) int
		names func(rest) []string
	}{
		{"descriptors", func(r rest) int { return r.descriptors }, func(r rest) []string { return r.descriptorNames }},
		{"watches of files", func(r rest) int { return r.watches }, func(rest) []string { return nil }},
		{"goroutines", func(r rest) int { return r.goroutines }, func(r rest) []string { return r.owners }},
		{"files", func(r rest) int { return r.files }, func(r rest) []string { return r.fileNames }},
	} {
		for i, r := range rests {
			if first := rests[0]; c.count(r) != c.count(first) {
				leaks = append(leaks, fmt.Sprintf("%d %s at rest %d after %d lives, %d at first: more are %q, fewer %q", c.count(r), c.what, i, r.lives, c.count(first), more(c.names(r), c.names(first)), more(c.names(first), c.names(r))))
				break
			}
		}
	}
	third := len(rests) / 3
	if third < leastRests || rests[third].events < eventsKept {
		return leaks
	}
	for _, c := range []struct {
		what   string
		amount func(rest) int
		growth int
	}{
		{"KiB of live objects", func(r rest) int { return r.heap }, heapGrowth},
		{"KiB of pages", func(r rest) int { return r.anonymous }, anonymousGrowth},
		{"threads", func(r rest) int { return r.threads }, threadGrowth},
		{"series of metrics", func(r rest) int { return r.series }, seriesGrowth},
	} {
		before, after := median(rests[third:2*third], c.amount), median(rests[len(rests)-third:], c.amount)
		if after > before+c.growth {
			leaks = append(leaks, fmt.Sprintf("%d %s in the last third, %d in the second: %d lives later", after, c.what, before, rests[len(rests)-1].lives-rests[third].lives))
		}
	}
	return leaks
}

func median(rests []rest, of func(rest) int) int {
	values := make([]int, len(rests))
	for i, r := range rests {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// more are the names that are more often among some than among others.
func more(some, others []string) []string {
	n := make(map[string]int)
	for _, s := range some {
		n[s]++
	}
	for _, s := range others {
		n[s]--
	}
	maps.DeleteFunc(n, func(_ string, n int) bool { return n <= 0 })
	return slices.Sorted(maps.Keys(n))
}

func (r rest) String() string {
	return fmt.Sprintf("%7s %7d %8d  %4d %4d %4d %5d  %4d %5d  %6d %6d %6d", r.at.Round(time.Second), r.lives, r.events,
		r.descriptors, r.watches, r.goroutines, r.files, r.threads, r.series, r.heap, r.anonymous, r.pss)
}

const restHeader = "     at   lives   events   fds  ino   gor files   thr   ser    heap   anon    pss (KiB)"

// account is what hostagent's process says of itself.
type account struct {
	Heap, Goroutines int // KiB of live objects
	Owners           []string
}

// accounts answers USR1 with an account in a file: what hostagent holds after a
// collection can't be seen from outside.
func accounts(path string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			a := account{Goroutines: runtime.NumGoroutine(), Owners: goroutines()}
			runtime.GC() // what a pool holds goes with the second one
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			a.Heap = int(m.HeapAlloc >> 10)
			text, err := json.Marshal(a)
			if err == nil {
				err = os.WriteFile(path+".new", text, 0o600)
			}
			if err == nil {
				err = os.Rename(path+".new", path)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "account:", err)
			}
		}
	}()
}

var creator = regexp.MustCompile(`(?m)^created by (\S+)`)

// goroutines are where they are, and who made them.
func goroutines() (out []string) {
	buf := make([]byte, 1<<20)
	for text := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		_, text, _ = strings.Cut(text, "\n")
		function, _, _ := strings.Cut(text, "(0x")
		owner := "main"
		if m := creator.FindStringSubmatch(text); m != nil {
			owner = m[1]
		}
		out = append(out, strings.SplitN(function, "\n", 2)[0]+" of "+owner)
	}
	return out
}

// account asks hostagent for one.
func (n *node) account() (a account) {
	n.t.Helper()
	path := n.path("account")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	if err := n.agent.Process.Signal(syscall.SIGUSR1); err != nil {
		n.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &a)
		}
		if err == nil {
			return a
		}
		if time.Now().After(end) {
			n.t.Fatalf("hostagent gives no account of itself: %v", err)
		}
	}
}

var numbers = regexp.MustCompile(`[0-9]+`)

// measure looks at the node as it is now.
func (n *node) measure() (r rest) {
	n.t.Helper()
	a := n.account()
	r.heap, r.goroutines, r.owners = a.Heap, a.Goroutines, a.Owners
	proc := fmt.Sprintf("/proc/%d", n.agent.Process.Pid)
	r.threads = number(n.t, proc+"/status", "Threads:")
	r.anonymous = number(n.t, proc+"/smaps_rollup", "Anonymous:")
	r.pss = number(n.t, proc+"/smaps_rollup", "Pss:")
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		n.t.Fatal(err)
	}
	r.descriptors = len(entries)
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(proc, "fd", e.Name()))
		r.descriptorNames = append(r.descriptorNames, numbers.ReplaceAllString(target, "N"))
		info, _ := os.ReadFile(filepath.Join(proc, "fdinfo", e.Name()))
		r.watches += strings.Count(string(info), "inotify wd:")
	}
	for _, root := range []string{"state", "run"} {
		err := fs.WalkDir(os.DirFS(n.path(root)), ".", func(path string, _ fs.DirEntry, err error) error {
			r.fileNames = append(r.fileNames, root+"/"+path)
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			n.t.Fatal(err)
		}
	}
	r.files = len(r.fileNames)
	return r
}

// A planted leak is found, and what only looks like one is none.
func TestLeakCop(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plant func(i int, r *rest)
		n     int
		leak  string // words of the verdict, "": none
	}{
		"flat":                          {func(int, *rest) {}, 60, ""},
		"noise":                         {func(i int, r *rest) { r.heap += i % 7 * 20; r.anonymous += i % 5 * 300; r.threads += i % 3 }, 60, ""},
		"grows until the ring is full":  {func(i int, r *rest) { r.heap += min(i, 15) * 100 }, 60, ""},
		"one odd rest":                  {func(i int, r *rest) { r.anonymous += i / 59 * 40000 }, 60, ""},
		"a peak that is given back":     {func(i int, r *rest) { r.heap += 9000 * (i / 20 % 2) }, 60, ""},
		"threads of the busiest moment": {func(i int, r *rest) { r.threads += i / 30 * 4 }, 60, ""},
		"too early to tell":             {func(i int, r *rest) { r.heap += i * 1000; r.events = 0 }, 60, ""},
		"a descriptor at the end":       {func(i int, r *rest) { r.descriptors += i / 59; r.descriptorNames = make([]string, i/59) }, 60, "21 descriptors at rest 59"},
		"a descriptor too few":          {func(i int, r *rest) { r.descriptors -= i / 2 }, 3, "19 descriptors at rest 2"},
		"a goroutine by and by": {func(i int, r *rest) {
			r.goroutines += i / 10
			r.owners = append([]string{"main"}, slices.Repeat([]string{"run of start"}, i/10)...)
		}, 60, `31 goroutines at rest 10 after 100 lives, 30 at first: more are ["run of start"]`},
		"watches":                     {func(i int, r *rest) { r.watches += i }, 2, "watches of files"},
		"a file":                      {func(i int, r *rest) { r.files += i }, 2, "files at rest 1"},
		"100 bytes with each life":    {func(i int, r *rest) { r.heap += i * 60 * 100 >> 10 }, 60, "KiB of live objects in the last third"},
		"pages, slowly":               {func(i int, r *rest) { r.anonymous += i * 120 }, 60, "KiB of pages"},
		"pages in noise":              {func(i int, r *rest) { r.anonymous += i*120 + i%5*300 }, 60, "KiB of pages"},
		"a thread now and then":       {func(i int, r *rest) { r.threads += i / 2 }, 60, "threads in"},
		"a series for each guest":     {func(i int, r *rest) { r.series += 10 * i }, 60, "series of metrics"},
		"of the least that is judged": {func(i int, r *rest) { r.heap += i * 200 }, 9, "KiB of live objects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rests := make([]rest, c.n)
			for i := range rests {
				rests[i] = rest{lives: 10 * i, events: 10000, exact: exact{20, 6, 30, 40}, threads: 9, series: 200, heap: 1500, anonymous: 6000}
				c.plant(i, &rests[i])
			}
			leaks := strings.Join(judge(rests), "\n")
			if (leaks != "") != (c.leak != "") || !strings.Contains(leaks, c.leak) {
				t.Errorf("verdict %q, want %q", leaks, c.leak)
			}
		})
	}
}
