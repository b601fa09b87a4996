package channel

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
)

func Test_a_rate_limit_is_told_to_everybody_and_asked_for_once(t *testing.T) {
	h := newHouse(t)
	c := h.connector("127.0.0.1:0")
	channel := dial(t, c.data, shipped(t))
	if _, err := channel.CreateFolder(within(t, patience), folderAt("/in")); err != nil {
		t.Fatal(err)
	}
	h.script(`{"route": "files/get_metadata", "times": 1, "action": {"do": "too_many_requests", "retry_after": 7}}`)

	begun := time.Now()
	var trailer metadata.MD
	_, err := channel.GetItem(within(t, 3*time.Second), item("/in"), grpc.Trailer(&trailer))
	reason, delay := told(err)
	if status.Code(err) != codes.ResourceExhausted || reason != "RATE_LIMITED" || delay != 7*time.Second {
		t.Fatalf("%v %s %v", err, reason, delay)
	}
	if pushback := trailer["grpc-retry-pushback-ms"]; len(pushback) != 1 || pushback[0] != "7000" {
		t.Fatalf("pushback %v", pushback)
	}

	// Whoever cannot wait so long hears it at once, and Dropbox nothing of it.
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			_, err := channel.GetItem(within(t, 3*time.Second), item("/in"))
			if reason, delay := told(err); reason != "RATE_LIMITED" || delay <= 3*time.Second || delay > 7*time.Second {
				t.Errorf("%v %s %v", err, reason, delay)
			}
		})
	}
	callers.Wait()
	if made, got, asked := len(channel.attempts.of("GetItem")), c.calls("GetItem"), h.counter("files/get_metadata").Calls; made != 21 || got != 21 || asked != 1 {
		t.Fatalf("of 21 calls: %d attempts, %d arrived, %d at Dropbox", made, got, asked)
	}

	// Whoever can is served when the time has come, by a call that was made once.
	if _, err := channel.GetItem(within(t, patience), item("/in")); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(begun); waited < 7*time.Second {
		t.Fatalf("served after %v", waited)
	}
	if made, asked := len(channel.attempts.of("GetItem")), h.counter("files/get_metadata").Calls; made != 22 || asked != 2 {
		t.Fatalf("of 22 calls: %d attempts, %d at Dropbox", made, asked)
	}
}

// A Dropbox whose certificate nobody trusts, as behind a proxy that reads along: every call fails at once as UNAVAILABLE, and
// the connector itself repeats nothing, so that what is counted is what the channel repeats.
func behindWrongCertificate(t *testing.T) (*connector, *atomic.Int64) {
	upstream := httptest.NewUnstartedServer(http.NotFoundHandler())
	upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	var reached atomic.Int64
	upstream.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			reached.Add(1)
		}
	}
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	h := newHouse(t)
	h.emulator.API = upstream.URL
	return h.connector("127.0.0.1:0"), &reached
}

func Test_a_read_is_repeated_three_times_and_not_sooner_than_told(t *testing.T) {
	c, reached := behindWrongCertificate(t)
	channel := dial(t, c.data, shipped(t))
	_, err := channel.GetItem(within(t, patience), item("/in"))
	if reason, delay := told(err); status.Code(err) != codes.Unavailable || reason != "DROPBOX_UNAVAILABLE" || delay != time.Second {
		t.Fatalf("%v %s %v", err, reason, delay)
	}
	made := channel.attempts.of("GetItem")
	if got := c.calls("GetItem"); len(made) != 4 || got != 4 || reached.Load() != 4 {
		t.Fatalf("%d attempts, %d arrived, %d at Dropbox", len(made), got, reached.Load())
	}
	for n, one := range made {
		if len(one.pushback) != 1 || one.pushback[0] != "1000" {
			t.Fatalf("pushback %v", one.pushback)
		}
		if n > 0 && one.begun.Sub(made[n-1].ended) < time.Second {
			t.Fatalf("attempt %d came %v after the one before", n+1, one.begun.Sub(made[n-1].ended))
		}
	}
}

func Test_writes_and_streams_are_not_repeated(t *testing.T) {
	c, reached := behindWrongCertificate(t)
	channel := dial(t, c.data, shipped(t))
	_, err := channel.CreateFolder(within(t, patience), folderAt("/in"))
	if reason, delay := told(err); status.Code(err) != codes.Unavailable || reason != "DROPBOX_UNAVAILABLE" || delay < 0 {
		t.Fatalf("%v %s %v", err, reason, delay)
	}
	walk, err := channel.WalkFolder(within(t, patience), &pb.WalkFolderRequest{ApplicationParameterId: parameter})
	if err == nil {
		_, err = walk.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	writes, walks := len(channel.attempts.of("CreateFolder")), len(channel.attempts.of("WalkFolder"))
	if writes != 1 || walks != 1 || reached.Load() != 2 {
		t.Fatalf("%d and %d attempts, %d at Dropbox", writes, walks, reached.Load())
	}
}

// With ten tokens, of which each failure takes one and repeats need more than five, four repeats are made in all, by however
// many callers: an outage does not multiply the load.
func Test_in_an_outage_all_callers_of_a_channel_make_four_repeats(t *testing.T) {
	c, reached := behindWrongCertificate(t)
	channel := dial(t, c.data, shipped(t))
	fail := func() {
		if _, err := channel.GetItem(within(t, patience), item("/in")); status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	inParallel(20, fail)
	for range 10 {
		fail()
	}
	if made, got := len(channel.attempts.of("GetItem")), c.calls("GetItem"); made != 34 || got != 34 || reached.Load() != 34 {
		t.Fatalf("of 30 calls: %d attempts, %d arrived, %d at Dropbox", made, got, reached.Load())
	}
}

// What the numbers above are worth: without throttling and with a higher bound the same calls are counted three times over.
func Test_a_config_that_hammers_shows_in_what_is_counted(t *testing.T) {
	c, reached := behindWrongCertificate(t)
	hammering := strings.NewReplacer(`"maxAttempts": 4`, `"maxAttempts": 5`, `"retryThrottling"`, `"unused"`).Replace(shipped(t))
	channel := dial(t, c.data, hammering)
	inParallel(20, func() { channel.GetItem(within(t, patience), item("/in")) })
	if made := len(channel.attempts.of("GetItem")); made != 100 || reached.Load() != 100 {
		t.Fatalf("of 20 calls: %d attempts, %d at Dropbox", made, reached.Load())
	}
}

func inParallel(callers int, call func()) {
	var all sync.WaitGroup
	for range callers {
		all.Go(call)
	}
	all.Wait()
}
