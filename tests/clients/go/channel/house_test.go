// What a stock grpc-go channel makes of clients/service_config.json as it is shipped: how often it asks, and whom. An emulator
// and connectors as processes of their own, started and ended by each test.
package channel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // healthCheckConfig of the service config needs it
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
)

const (
	parameter = "p"
	// A debug binary on a busy machine does what it is waited for within this.
	patience = time.Minute
)

var binary = os.Getenv("CONNECTOR_BINARY")

// A folder, an emulator, and what connectors before it share.
type house struct {
	t        *testing.T
	folder   string
	emulator struct{ API, Content, Notify, WWW, Control, AppKey, AccessToken string }
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, folder: t.TempDir()}
	if told, err := exec.Command(binary, "keys", "generate", h.path("keys")).CombinedOutput(); err != nil {
		t.Fatalf("no key file: %v: %s", err, told)
	}
	emulator := h.start("emulator", "emulator", "--json", "--in-memory")
	if err := json.Unmarshal([]byte(emulator.line("{")), &h.emulator); err != nil {
		t.Fatal(err)
	}
	entry := "[[application_parameters]]\nid = %q\napp_key = %q\napp_secret = \"x\"\naccess_token = %q\n"
	parameters := fmt.Sprintf(entry, parameter, h.emulator.AppKey, h.emulator.AccessToken)
	if err := os.WriteFile(h.path("parameters.toml"), []byte(parameters), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) path(name string) string { return filepath.Join(h.folder, name) }

// A process, its output by lines.
type process struct {
	t       *testing.T
	command *exec.Cmd
	mutex   sync.Mutex
	lines   []string
	ended   chan struct{}
}

func (h *house) start(name string, arguments ...string) *process {
	h.t.Helper()
	p := &process{t: h.t, command: exec.Command(binary, arguments...), ended: make(chan struct{})}
	p.command.Dir = h.folder
	read, write := io.Pipe()
	p.command.Stdout, p.command.Stderr = write, write
	if err := p.command.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(read); lines.Scan(); {
			p.mutex.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mutex.Unlock()
		}
		io.Copy(io.Discard, read)
	}()
	go func() {
		p.command.Wait()
		write.Close()
		close(p.ended)
	}()
	h.t.Cleanup(func() {
		p.command.Process.Kill()
		<-p.ended
		if h.t.Failed() && name != "emulator" { // whose one line is long
			p.mutex.Lock()
			defer p.mutex.Unlock()
			h.t.Logf("%s said:\n%s", name, strings.Join(p.lines[max(0, len(p.lines)-20):], "\n"))
		}
	})
	return p
}

// line waits for the first line that begins so.
func (p *process) line(beginning string) (found string) {
	p.t.Helper()
	until(p.t, "a line that begins "+beginning, func() bool {
		select {
		case <-p.ended:
			p.t.Fatal("it ended at once")
		default:
		}
		p.mutex.Lock()
		defer p.mutex.Unlock()
		for _, line := range p.lines {
			if strings.HasPrefix(line, beginning) {
				found = line
				return true
			}
		}
		return false
	})
	return found
}

// A connector before the emulator of the house, or before what its flags say.
type connector struct {
	*process
	data, http string
}

func (h *house) connector(listen string, flags ...string) *connector {
	h.t.Helper()
	name := strings.NewReplacer(":", "-", ".", "-").Replace(listen)
	process := h.start("connector "+listen, append([]string{"serve",
		"--data-listen", listen, "--admin-listen", "127.0.0.1:0", "--probe-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
		"--store-url", "sqlite://" + h.path(name+".db"), "--sealing-key-file", h.path("keys"),
		"--parameters-file", h.path("parameters.toml"), "--allow-insecure-upstream",
		"--dropbox-api-url", h.emulator.API, "--dropbox-content-url", h.emulator.Content,
		"--dropbox-notify-url", h.emulator.Notify, "--dropbox-oauth-url", h.emulator.WWW,
	}, flags...)...)
	told := process.line("listening ")
	at := func(name string) string { return regexp.MustCompile(" " + name + `=(\S+)`).FindStringSubmatch(told)[1] }
	return &connector{process, at("data"), at("http")}
}

// calls tells how many calls of an RPC the connector has answered, by its own metrics.
func (c *connector) calls(method string) (calls int) {
	c.t.Helper()
	text := string(get(c.t, "http://"+c.http+"/metrics"))
	count := regexp.MustCompile(`(?m)^rpc_server_call_duration_count\{[^}]*/` + method + `"[^}]*\} (\d+)`)
	for _, found := range count.FindAllStringSubmatch(text, -1) {
		one, _ := strconv.Atoi(found[1])
		calls += one
	}
	return calls
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, answer.Status, err)
	}
	return body
}

// script tells the emulator what to do wrong.
func (h *house) script(rule string) {
	h.t.Helper()
	answer, err := http.Post(h.emulator.Control+"/control/script", "application/json", bytes.NewBufferString(rule))
	if err != nil || answer.StatusCode != http.StatusOK {
		h.t.Fatal(answer, err)
	}
	answer.Body.Close()
}

// counter tells of the calls of a route at Dropbox.
func (h *house) counter(route string) (counter struct{ Calls, Running int }) {
	h.t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(get(h.t, h.emulator.Control+"/control/counters"), &all); err != nil {
		h.t.Fatal(err)
	}
	if one, ok := all[route]; ok {
		if err := json.Unmarshal(one, &counter); err != nil {
			h.t.Fatal(err)
		}
	}
	return counter
}

func shipped(t *testing.T) string {
	t.Helper()
	config, err := os.ReadFile("../../../../clients/service_config.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(config)
}

// A channel, and every attempt it has made.
type channel struct {
	pb.DropboxConnectorClient
	attempts *attempts
}

func dial(t *testing.T, target, config string) channel {
	t.Helper()
	attempts := &attempts{}
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(attempts),
		grpc.WithDefaultServiceConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return channel{pb.NewDropboxConnectorClient(connection), attempts}
}

// One attempt of a call: grpc-go begins a new one for each repeat.
type attempt struct {
	method       string
	at           string // the replica's address, once it is known
	begun, ended time.Time
	pushback     []string
	err          error
}

type attempts struct {
	mutex sync.Mutex
	all   []*attempt
}

type key struct{}

func (a *attempts) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, key{}, &attempt{method: info.FullMethodName[strings.LastIndex(info.FullMethodName, "/")+1:]})
}

func (a *attempts) HandleRPC(ctx context.Context, event stats.RPCStats) {
	one := ctx.Value(key{}).(*attempt)
	a.mutex.Lock()
	defer a.mutex.Unlock()
	switch event := event.(type) {
	case *stats.Begin:
		one.begun = event.BeginTime
		a.all = append(a.all, one)
	case *stats.OutHeader:
		one.at, _, _ = net.SplitHostPort(event.RemoteAddr.String())
	case *stats.InTrailer:
		one.pushback = event.Trailer["grpc-retry-pushback-ms"]
	case *stats.End:
		one.ended, one.err = event.EndTime, event.Error
	}
}

func (*attempts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*attempts) HandleConn(context.Context, stats.ConnStats)                       {}

// of tells the attempts at a method so far.
func (a *attempts) of(method string) (found []attempt) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for _, one := range a.all {
		if one.method == method {
			found = append(found, *one)
		}
	}
	return found
}

func within(t *testing.T, span time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), span)
	t.Cleanup(cancel)
	return ctx
}

func item(path string) *pb.GetItemRequest {
	return &pb.GetItemRequest{ApplicationParameterId: parameter, Path: path}
}

func folderAt(path string) *pb.CreateFolderRequest {
	return &pb.CreateFolderRequest{ApplicationParameterId: parameter, Path: path}
}

// told reads the reason and the delay out of an error; "" and -1 where there is none.
func told(err error) (reason string, delay time.Duration) {
	delay = -1
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			delay = detail.RetryDelay.AsDuration()
		}
	}
	return reason, delay
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
	}
}
