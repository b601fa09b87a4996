// The conformance checks of the clients, from stock Go stubs. The same checks, by the same names, run in every language.
package clients

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // healthCheckConfig of the service config needs it
	"google.golang.org/grpc/status"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
	"dropbox-connector/clients/go/transfer"
)

const mib = 1 << 20

var (
	parameter = os.Getenv("CONNECTOR_PARAMETER")
	folder    = fmt.Sprintf("/conformance-go-%d-%d", os.Getpid(), time.Now().UnixNano())
)

func connect(t *testing.T) (pb.DropboxConnectorClient, context.Context) {
	t.Helper()
	config, err := os.ReadFile("../service_config.json")
	if err != nil {
		t.Fatal(err)
	}
	channel, err := grpc.NewClient(os.Getenv("CONNECTOR_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { channel.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return pb.NewDropboxConnectorClient(channel), ctx
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.Read(data)
	return data
}

func contentHash(data []byte) string {
	hasher := transfer.NewContentHash()
	hasher.Write(data)
	return hasher.Hex()
}

// upload sends the chunks as they are and answers what CloseAndRecv tells, also when Send met io.EOF before.
func upload(t *testing.T, client pb.DropboxConnectorClient, ctx context.Context, name string, finish bool, chunks ...*pb.UploadChunk) (*pb.UploadFileResponse, bool, error) {
	t.Helper()
	stream, err := client.UploadFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	spec := &pb.UploadFileRequest_Spec{Spec: &pb.UploadSpec{Path: folder + "/" + name}}
	requests := []*pb.UploadFileRequest{{ApplicationParameterId: parameter, Frame: spec}}
	for _, chunk := range chunks {
		requests = append(requests, &pb.UploadFileRequest{Frame: &pb.UploadFileRequest_Chunk{Chunk: chunk}})
	}
	if finish {
		requests = append(requests, &pb.UploadFileRequest{Frame: &pb.UploadFileRequest_Finish{Finish: &pb.UploadFinish{}}})
	}
	broken := false
	for _, request := range requests {
		if err := stream.Send(request); err == io.EOF {
			broken = true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	answer, err := stream.CloseAndRecv()
	return answer, broken, err
}

// detail finds one detail of a failed call.
func detail[D any](err error) (D, bool) {
	for _, any := range status.Convert(err).Details() {
		if found, ok := any.(D); ok {
			return found, true
		}
	}
	var none D
	return none, false
}

func wantReason(t *testing.T, err error, code codes.Code, reason string) *errdetails.ErrorInfo {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("want %v, got %v", code, err)
	}
	info, ok := detail[*errdetails.ErrorInfo](err)
	if !ok || info.Reason != reason || info.Domain != "dropboxconnector" {
		t.Fatalf("want reason %s, got %v", reason, info)
	}
	return info
}

func Test_upload_in_chunks_of_1_mib_then_download_gives_the_same_bytes_and_hash(t *testing.T) {
	client, ctx := connect(t)
	data := random(9*mib + 123)
	size := int64(len(data))
	spec := &pb.UploadSpec{Path: folder + "/up.bin", TotalSize: &size}
	answer, err := transfer.Upload(ctx, client, parameter, spec, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if answer.State != pb.UploadState_UPLOAD_STATE_COMMITTED || !answer.Verified || answer.ContentHash != contentHash(data) {
		t.Fatalf("not what was sent: %v", answer)
	}
	var sink bytes.Buffer
	found, err := transfer.Download(ctx, client, parameter, folder+"/up.bin", &sink)
	if err != nil {
		t.Fatal(err)
	}
	if found != contentHash(data) || !bytes.Equal(sink.Bytes(), data) {
		t.Fatal("other bytes came back")
	}
}

func Test_a_chunk_of_exactly_4_mib_works(t *testing.T) {
	client, ctx := connect(t)
	data := random(4 * mib)
	answer, _, err := upload(t, client, ctx, "four.bin", true, &pb.UploadChunk{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if answer.ContentHash != contentHash(data) || !answer.Verified {
		t.Fatalf("the hash differs: %v", answer)
	}
}

func Test_a_chunk_of_5_mib_is_refused_with_the_limit(t *testing.T) {
	client, ctx := connect(t)
	_, _, err := upload(t, client, ctx, "five.bin", true, &pb.UploadChunk{Data: make([]byte, 5*mib)})
	info := wantReason(t, err, codes.InvalidArgument, "CHUNK_TOO_LARGE")
	if info.Metadata["maxChunkBytes"] != "4194304" {
		t.Fatalf("the limit is not told: %v", info.Metadata)
	}
}

func Test_an_error_carries_its_details(t *testing.T) {
	client, ctx := connect(t)
	_, err := client.GetItem(ctx, &pb.GetItemRequest{ApplicationParameterId: parameter, Path: folder + "/missing"})
	wantReason(t, err, codes.NotFound, "PATH_NOT_FOUND")
	if request, ok := detail[*errdetails.RequestInfo](err); !ok || request.RequestId == "" {
		t.Fatal("no request id")
	}
	if resource, ok := detail[*errdetails.ResourceInfo](err); !ok || resource.ResourceName == "" {
		t.Fatal("no resource name")
	}
	if _, ok := detail[*errdetails.RetryInfo](err); ok {
		t.Fatal("a missing path is no reason to try again")
	}
}

func Test_an_error_in_mid_upload_reaches_the_caller(t *testing.T) {
	client, ctx := connect(t)
	wrong := uint32(0xDEADBEEF)
	chunks := []*pb.UploadChunk{{Data: make([]byte, mib)}, {Data: random(mib), Crc32C: &wrong}}
	for range 64 {
		chunks = append(chunks, &pb.UploadChunk{Data: make([]byte, mib)})
	}
	_, broken, err := upload(t, client, ctx, "damaged.bin", true, chunks...)
	wantReason(t, err, codes.DataLoss, "CHUNK_CRC_MISMATCH")
	if !broken {
		t.Fatal("64 MiB were taken after the error")
	}
}

func Test_a_download_needs_no_larger_receive_limit(t *testing.T) {
	client, ctx := connect(t)
	data := random(6 * mib)
	if _, err := transfer.Upload(ctx, client, parameter, &pb.UploadSpec{Path: folder + "/large.bin"}, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	source := &pb.DownloadFileRequest_Path{Path: folder + "/large.bin"}
	stream, err := client.DownloadFile(ctx, &pb.DownloadFileRequest{ApplicationParameterId: parameter, Source: source, ChunkSize: 2 * mib})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	var bodies []byte
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch payload := message.Payload.(type) {
		case *pb.DownloadFileResponse_Header:
			kinds = append(kinds, "header")
		case *pb.DownloadFileResponse_Chunk:
			kinds = append(kinds, "chunk")
			bodies = append(bodies, payload.Chunk.Data...)
		case *pb.DownloadFileResponse_Trailer:
			kinds = append(kinds, "trailer")
			if payload.Trailer.ContentHash != contentHash(data) {
				t.Fatal("the trailer tells another hash")
			}
		}
	}
	if found := strings.Join(kinds, " "); !regexp.MustCompile(`^header( chunk)+ trailer$`).MatchString(found) {
		t.Fatalf("frames: %s", found)
	}
	if !bytes.Equal(bodies, data) {
		t.Fatal("other bytes came back")
	}
}

func Test_an_upload_without_finish_leaves_nothing(t *testing.T) {
	client, ctx := connect(t)
	answer, _, err := upload(t, client, ctx, "open.bin", false, &pb.UploadChunk{Data: []byte("abc")})
	if err != nil {
		t.Fatal(err)
	}
	if answer.State != pb.UploadState_UPLOAD_STATE_OPEN {
		t.Fatalf("state %v", answer.State)
	}
	_, err = client.GetItem(ctx, &pb.GetItemRequest{ApplicationParameterId: parameter, Path: folder + "/open.bin"})
	wantReason(t, err, codes.NotFound, "PATH_NOT_FOUND")
}

func Test_a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed(t *testing.T) {
	client, ctx := connect(t)
	watched := folder + "/watched"
	put := func(name string) {
		spec := &pb.UploadSpec{Path: watched + "/" + name}
		if _, err := transfer.Upload(ctx, client, parameter, spec, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	watch := func(request *pb.WatchEventsRequest) (pb.DropboxConnector_WatchEventsClient, context.CancelFunc) {
		inner, cancel := context.WithCancel(ctx)
		request.ApplicationParameterId, request.Path = parameter, watched
		stream, err := client.WatchEvents(inner, request)
		if err != nil {
			t.Fatal(err)
		}
		return stream, cancel
	}
	change := func(stream pb.DropboxConnector_WatchEventsClient) (*pb.ChangeEvent, string) {
		for {
			message, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if change := message.GetChange(); change != nil {
				return change, message.ResumeToken
			}
		}
	}
	told := func(change *pb.ChangeEvent) string {
		return strings.TrimPrefix(change.ChangeType.String(), "EVENT_TYPE_") + " " +
			strings.TrimPrefix(change.Item.PathDisplay, watched)
	}

	put("first")
	stream, cancel := watch(&pb.WatchEventsRequest{})
	defer cancel()
	first, err := stream.Recv()
	if err != nil || first.GetReady() == nil || first.ResumeToken == "" {
		t.Fatalf("a watch does not begin with ready and a token: %v %v", first, err)
	}
	// Types are certain once the connector has read the folder.
	for number := 0; ; number++ {
		put(fmt.Sprintf("probe-%d", number))
		if change, _ := change(stream); change.Basis == pb.EventBasis_EVENT_BASIS_INDEX {
			break
		}
	}
	put("a")
	if created, _ := change(stream); told(created) != "CREATED /a" {
		t.Fatalf("no creation: %v", created)
	}
	move := &pb.MoveItemRequest{ApplicationParameterId: parameter, FromPath: watched + "/a", ToPath: watched + "/b"}
	if _, err := client.MoveItem(ctx, move); err != nil {
		t.Fatal(err)
	}
	if moved, _ := change(stream); told(moved) != "MOVED /b" || moved.PreviousPath != watched+"/a" {
		t.Fatalf("no move: %v", moved)
	}
	remove := &pb.DeleteItemRequest{ApplicationParameterId: parameter, Path: watched + "/b"}
	if _, err := client.DeleteItem(ctx, remove); err != nil {
		t.Fatal(err)
	}
	deleted, token := change(stream)
	if told(deleted) != "DELETED /b" {
		t.Fatalf("no deletion: %v", deleted)
	}

	restart := os.Getenv("CONNECTOR_RESTART")
	if err := os.WriteFile(restart, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			t.Fatal("a killed connector ends no stream well")
		}
		if err != nil {
			break
		}
		token = message.ResumeToken
	}
	for {
		if _, err := os.Stat(restart); os.IsNotExist(err) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	// From here on the channel is connected again.
	if _, err := client.GetServerInfo(ctx, &pb.GetServerInfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c", "d", "e"} {
		put(name)
	}
	stream, cancel = watch(&pb.WatchEventsRequest{Start: &pb.WatchEventsRequest_ResumeToken{ResumeToken: token}})
	defer cancel()
	var again []string
	for range 3 {
		change, _ := change(stream)
		again = append(again, told(change))
	}
	if found := strings.Join(again, ", "); found != "CREATED /c, CREATED /d, CREATED /e" {
		t.Fatalf("told %s", found)
	}
}
