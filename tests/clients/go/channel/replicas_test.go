package channel

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver/dns"
	"google.golang.org/grpc/status"
)

// A headless service as Kubernetes shows it: one name, the address of every replica, one port.
type service struct {
	*house
	port      int
	names     *names
	replicas  map[string]*connector
	connected channel
}

func TestMain(m *testing.M) {
	// The default of 30 s keeps the wait for new replicas from being seen in a test; nothing else hangs on it.
	dns.SetMinResolutionInterval(100 * time.Millisecond)
	os.Exit(m.Run())
}

func newService(t *testing.T, replicas int, flags ...string) *service {
	t.Helper()
	s := &service{house: newHouse(t), port: freePort(t), names: nameServer(t), replicas: map[string]*connector{}}
	s.add(replicas, flags...)
	target := fmt.Sprintf("dns://%s/connector.test.:%d", s.names.address, s.port)
	s.connected = dial(t, target, shipped(t))
	if _, err := s.connected.CreateFolder(within(t, patience), folderAt("/in")); err != nil {
		t.Fatal(err)
	}
	return s
}

// add starts further replicas and gives their addresses to the name.
func (s *service) add(count int, flags ...string) {
	s.t.Helper()
	for range count {
		ip := fmt.Sprintf("127.0.0.%d", 2+len(s.replicas))
		s.replicas[ip] = s.connector(net.JoinHostPort(ip, strconv.Itoa(s.port)), append([]string{"--drain-delay", "2s"}, flags...)...)
	}
	s.names.set(slices.Collect(maps.Keys(s.replicas)))
}

// served makes calls, one after the other, and counts who answered.
func (s *service) served(calls int) map[string]int {
	s.t.Helper()
	by := map[string]int{}
	for range calls {
		ip, err := s.call()
		if err != nil {
			s.t.Fatal(err)
		}
		by[ip]++
	}
	return by
}

func (s *service) call() (ip string, err error) {
	var who peer.Peer
	_, err = s.connected.GetItem(within(s.t, patience), item("/in"), grpc.Peer(&who))
	if err != nil {
		return "", err
	}
	ip, _, err = net.SplitHostPort(who.Addr.String())
	return ip, err
}

// allServe waits until each of these has answered, and nobody else does.
func (s *service) allServe(replicas int) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("%d replicas serve", replicas), func() bool { return len(s.served(3*replicas)) == replicas })
}

// Callers that go on and on; every error one of them sees fails the test.
func (s *service) traffic(callers int) (end func() int) {
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var calls atomic.Int64
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.call(); err != nil {
					s.t.Errorf("call %d: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	var once sync.Once
	end = func() int {
		once.Do(func() { stop(); all.Wait() })
		return int(calls.Load())
	}
	s.t.Cleanup(func() { end() })
	return end
}

func Test_calls_spread_over_three_replicas_and_go_on_when_one_drains_and_one_is_killed(t *testing.T) {
	s := newService(t, 3)
	s.allServe(3)
	for ip, calls := range s.served(30) {
		if calls != 10 {
			t.Errorf("%s answered %d of 30", ip, calls)
		}
	}
	end := s.traffic(4)

	// Drained: it says so by health before it refuses, and ends well.
	drained := s.replicas["127.0.0.2"]
	drained.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-drained.ended:
	case <-time.After(patience):
		t.Fatal("still draining")
	}
	if code := drained.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the drained one ended with %d", code)
	}
	s.allServe(2)

	// Killed: calls that were under way there are repeated at the other. They are held up at Dropbox, so that one is.
	s.script(`{"route": "files/get_metadata", "action": {"do": "delay", "millis": 1500}}`)
	young := func(one attempt) bool {
		age := time.Since(one.begun)
		return one.at == "127.0.0.3" && one.ended.IsZero() && age > 100*time.Millisecond && age < 700*time.Millisecond
	}
	until(t, "a call is under way", func() bool { return slices.ContainsFunc(s.connected.attempts.of("GetItem"), young) })
	s.replicas["127.0.0.3"].command.Process.Kill()
	lost := func(one attempt) bool { return one.at == "127.0.0.3" && status.Code(one.err) == codes.Unavailable }
	until(t, "it is lost", func() bool { return slices.ContainsFunc(s.connected.attempts.of("GetItem"), lost) })
	until(t, "calls go on", func() bool { return s.served(2)["127.0.0.4"] == 2 })
	t.Logf("%d calls went on without an error", end())
}

func Test_a_write_under_way_at_a_killed_replica_fails_without_a_reason_and_is_not_repeated(t *testing.T) {
	s := newService(t, 3)
	s.allServe(3)
	s.script(`{"route": "files/create_folder_v2", "action": {"do": "stall"}}`)
	before := s.counter("files/create_folder_v2").Calls
	failed := make(chan error)
	go func() {
		_, err := s.connected.CreateFolder(within(t, patience), folderAt("/once"))
		failed <- err
	}()
	until(t, "the write is under way", func() bool { return s.counter("files/create_folder_v2").Running == 1 })
	made := s.connected.attempts.of("CreateFolder")
	s.replicas[made[len(made)-1].at].command.Process.Kill()
	err := <-failed
	if reason, delay := told(err); status.Code(err) != codes.Unavailable || reason != "" || delay >= 0 {
		t.Errorf("%v %s %v", err, reason, delay)
	}
	if asked := s.counter("files/create_folder_v2").Calls - before; asked != 1 {
		t.Errorf("%d at Dropbox", asked)
	}
	if _, err := s.call(); err != nil {
		t.Error(err)
	}
}

func Test_replicas_that_are_added_are_reached_when_connections_come_of_age(t *testing.T) {
	const age = 4 * time.Second
	s := newService(t, 3, "--connection-age", age.String())
	s.allServe(3)
	end := s.traffic(4)
	s.add(2, "--connection-age", age.String())
	added := time.Now()
	s.allServe(5)
	took := time.Since(added)
	if calls := end(); took > 2*age {
		t.Errorf("%v after the name told them (%d calls)", took, calls)
	}
}

// A name server with one name.
type names struct {
	address string
	mutex   sync.Mutex
	ips     []net.IP
}

func nameServer(t *testing.T) *names {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	n := &names{address: socket.LocalAddr().String()}
	go func() {
		question := make([]byte, 1500)
		for {
			length, from, err := socket.ReadFrom(question)
			if err != nil {
				return
			}
			if answer, err := n.answer(question[:length]); err == nil {
				socket.WriteTo(answer, from)
			}
		}
	}()
	return n
}

func (n *names) set(ips []string) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.ips = nil
	for _, ip := range ips {
		n.ips = append(n.ips, net.ParseIP(ip).To4())
	}
}

func (n *names) answer(question []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(question)
	if err != nil {
		return nil, err
	}
	asked, err := parser.Question()
	if err != nil {
		return nil, err
	}
	header.Response, header.Authoritative = true, true
	if asked.Name.String() != "connector.test." {
		header.RCode = dnsmessage.RCodeNameError
	}
	answer := dnsmessage.NewBuilder(nil, header)
	answer.StartQuestions()
	answer.Question(asked)
	if header.RCode == dnsmessage.RCodeSuccess && asked.Type == dnsmessage.TypeA {
		answer.StartAnswers()
		n.mutex.Lock()
		defer n.mutex.Unlock()
		for _, ip := range n.ips {
			head := dnsmessage.ResourceHeader{Name: asked.Name, Class: asked.Class, TTL: 1}
			answer.AResource(head, dnsmessage.AResource{A: [4]byte(ip)})
		}
	}
	return answer.Finish()
}

// freePort finds one that is free at every address a replica may get.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		var all []net.Listener
		port := 0
		for n := 2; n <= 6; n++ {
			one, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%d", n, port))
			if err != nil {
				break
			}
			all = append(all, one)
			port = one.Addr().(*net.TCPAddr).Port
		}
		for _, one := range all {
			one.Close()
		}
		if len(all) == 5 {
			return port
		}
	}
	t.Fatal("no port is free at 127.0.0.2 to 127.0.0.6")
	return 0
}
