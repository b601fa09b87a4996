package example;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.ResourceInfo;
import com.google.rpc.RetryInfo;
import dropboxconnector.v1.ChangeEvent;
import dropboxconnector.v1.DeleteItemRequest;
import dropboxconnector.v1.DownloadFileRequest;
import dropboxconnector.v1.DownloadFileResponse;
import dropboxconnector.v1.DropboxConnectorGrpc;
import dropboxconnector.v1.EventBasis;
import dropboxconnector.v1.GetItemRequest;
import dropboxconnector.v1.GetServerInfoRequest;
import dropboxconnector.v1.MoveItemRequest;
import dropboxconnector.v1.UploadChunk;
import dropboxconnector.v1.UploadFileRequest;
import dropboxconnector.v1.UploadFileResponse;
import dropboxconnector.v1.UploadSpec;
import dropboxconnector.v1.UploadState;
import dropboxconnector.v1.WatchEventsRequest;
import dropboxconnector.v1.WatchEventsResponse;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status.Code;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;

/** The conformance checks of the clients, from stock Java stubs. The same checks, by the same names, run in every language. */
public final class Conformance {
    private static final int MIB = 1 << 20;
    private static final String PARAMETER = System.getenv("CONNECTOR_PARAMETER");
    private static final String FOLDER = "/conformance-java-" + UUID.randomUUID();

    private final ManagedChannel channel;

    private Conformance(ManagedChannel channel) {
        this.channel = channel;
    }

    private interface Check {
        void run() throws Exception;
    }

    private static void expect(boolean condition, String text) {
        if (!condition) {
            throw new AssertionError(text);
        }
    }

    private static byte[] random(int size) {
        byte[] data = new byte[size];
        new Random().nextBytes(data);
        return data;
    }

    private static String contentHash(byte[] data) {
        return new ContentHash().update(data).hex();
    }

    private static UploadFileRequest first(String name) {
        return Transfer.first(PARAMETER, UploadSpec.newBuilder().setPath(FOLDER + "/" + name).build());
    }

    /** A failed call: its code, and its details. */
    private record Failure(Code code, List<Any> details) {
        <D extends com.google.protobuf.Message> D detail(Class<D> type) throws Exception {
            for (Any any : details) {
                if (any.is(type)) {
                    return any.unpack(type);
                }
            }
            return null;
        }

        void expectReason(Code wanted, String reason) throws Exception {
            expect(code == wanted, "code " + code);
            ErrorInfo info = detail(ErrorInfo.class);
            expect(info != null && info.getReason().equals(reason), "reason " + info);
            expect(info.getDomain().equals("dropboxconnector"), info.getDomain());
        }
    }

    private static Failure failure(Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (StatusRuntimeException | StatusException failed) {
            com.google.rpc.Status status = StatusProto.fromThrowable(failed);
            expect(status != null, "no status details: " + failed);
            return new Failure(io.grpc.Status.fromThrowable(failed).getCode(), status.getDetailsList());
        }
        throw new AssertionError("the call succeeded");
    }

    private Object getItem(String name) {
        GetItemRequest request = GetItemRequest.newBuilder()
                .setApplicationParameterId(PARAMETER).setPath(FOLDER + "/" + name).build();
        return DropboxConnectorGrpc.newBlockingStub(channel).getItem(request);
    }

    private void uploadInChunksThenDownload() throws Exception {
        byte[] data = random(9 * MIB + 123);
        UploadSpec spec = UploadSpec.newBuilder().setPath(FOLDER + "/up.bin").setTotalSize(data.length).build();
        UploadFileResponse answer = Transfer.upload(channel, PARAMETER, spec, new ByteArrayInputStream(data));
        expect(answer.getState() == UploadState.UPLOAD_STATE_COMMITTED, "state " + answer.getState());
        expect(answer.getVerified() && answer.getContentHash().equals(contentHash(data)), "the server has another hash");
        ByteArrayOutputStream sink = new ByteArrayOutputStream();
        String found = Transfer.download(channel, PARAMETER, FOLDER + "/up.bin", sink);
        expect(found.equals(contentHash(data)), "another hash came back");
        expect(Arrays.equals(sink.toByteArray(), data), "other bytes came back");
    }

    private void chunkOfExactly4Mib() throws Exception {
        byte[] data = random(4 * MIB);
        List<UploadFileRequest> frames = List.of(first("four.bin"), Transfer.chunk(data), Transfer.finish(""));
        UploadFileResponse answer = Transfer.send(channel, frames.iterator());
        expect(answer.getVerified() && answer.getContentHash().equals(contentHash(data)), "the hash differs");
    }

    private void chunkOf5MibIsRefused() throws Exception {
        List<UploadFileRequest> frames =
                List.of(first("five.bin"), Transfer.chunk(new byte[5 * MIB]), Transfer.finish(""));
        Failure failure = failure(() -> Transfer.send(channel, frames.iterator()));
        failure.expectReason(Code.INVALID_ARGUMENT, "CHUNK_TOO_LARGE");
        Map<String, String> facts = failure.detail(ErrorInfo.class).getMetadataMap();
        expect("4194304".equals(facts.get("maxChunkBytes")), "the limit is not told: " + facts);
    }

    private void errorCarriesItsDetails() throws Exception {
        Failure failure = failure(() -> getItem("missing"));
        failure.expectReason(Code.NOT_FOUND, "PATH_NOT_FOUND");
        RequestInfo request = failure.detail(RequestInfo.class);
        expect(request != null && !request.getRequestId().isEmpty(), "no request id");
        ResourceInfo resource = failure.detail(ResourceInfo.class);
        expect(resource != null && !resource.getResourceName().isEmpty(), "no resource name");
        expect(failure.detail(RetryInfo.class) == null, "a missing path is no reason to try again");
    }

    private void errorInMidUpload() throws Exception {
        List<UploadFileRequest> frames = new ArrayList<>();
        frames.add(first("damaged.bin"));
        frames.add(Transfer.chunk(new byte[MIB]));
        UploadChunk damaged =
                UploadChunk.newBuilder().setData(ByteString.copyFrom(random(MIB))).setCrc32C(0xDEADBEEF).build();
        frames.add(UploadFileRequest.newBuilder().setChunk(damaged).build());
        for (int count = 0; count < 64; count++) {
            frames.add(Transfer.chunk(new byte[MIB]));
        }
        frames.add(Transfer.finish(""));
        failure(() -> Transfer.send(channel, frames.iterator())).expectReason(Code.DATA_LOSS, "CHUNK_CRC_MISMATCH");
    }

    private void downloadNeedsNoLargerLimit() throws Exception {
        byte[] data = random(6 * MIB);
        UploadSpec spec = UploadSpec.newBuilder().setPath(FOLDER + "/large.bin").build();
        Transfer.upload(channel, PARAMETER, spec, new ByteArrayInputStream(data));
        DownloadFileRequest request = DownloadFileRequest.newBuilder()
                .setApplicationParameterId(PARAMETER).setPath(FOLDER + "/large.bin").setChunkSize(2 * MIB).build();
        Iterator<DownloadFileResponse> messages = DropboxConnectorGrpc.newBlockingStub(channel).downloadFile(request);
        StringBuilder kinds = new StringBuilder();
        ByteArrayOutputStream sink = new ByteArrayOutputStream();
        while (messages.hasNext()) {
            DownloadFileResponse message = messages.next();
            kinds.append(message.getPayloadCase()).append(' ');
            message.getChunk().getData().writeTo(sink);
            if (message.hasTrailer()) {
                expect(message.getTrailer().getContentHash().equals(contentHash(data)), "the trailer tells another hash");
            }
        }
        expect(kinds.toString().matches("HEADER (CHUNK )+TRAILER "), "frames: " + kinds);
        expect(Arrays.equals(sink.toByteArray(), data), "other bytes came back");
    }

    private void uploadWithoutFinish() throws Exception {
        List<UploadFileRequest> frames = List.of(first("open.bin"), Transfer.chunk(new byte[] {1, 2, 3}));
        UploadFileResponse answer = Transfer.send(channel, frames.iterator());
        expect(answer.getState() == UploadState.UPLOAD_STATE_OPEN, "state " + answer.getState());
        failure(() -> getItem("open.bin")).expectReason(Code.NOT_FOUND, "PATH_NOT_FOUND");
    }

    /** A watch in hand, which ends with {@link #close()}. */
    private final class Watch implements AutoCloseable {
        private final Context.CancellableContext context = Context.current().withCancellation();
        private final Iterator<WatchEventsResponse> messages;
        /** Of the last message. */
        private String token;

        Watch(WatchEventsRequest.Builder request) throws Exception {
            messages = context.call(() -> DropboxConnectorGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(2, TimeUnit.MINUTES)
                    .watchEvents(request.setApplicationParameterId(PARAMETER).build()));
        }

        WatchEventsResponse next() {
            WatchEventsResponse message = messages.next();
            token = message.getResumeToken();
            return message;
        }

        ChangeEvent change() {
            while (true) {
                WatchEventsResponse message = next();
                if (message.hasChange()) {
                    return message.getChange();
                }
            }
        }

        @Override
        public void close() {
            context.cancel(null);
        }
    }

    private void put(String name) throws Exception {
        byte[] data = name.getBytes(StandardCharsets.UTF_8);
        Transfer.send(channel, List.of(first(name), Transfer.chunk(data), Transfer.finish("")).iterator());
    }

    private static String told(ChangeEvent change) {
        return change.getChangeType().name().replace("EVENT_TYPE_", "") + " "
                + change.getItem().getPathDisplay().replace(FOLDER + "/watched", "");
    }

    private void watchMissesNothing() throws Exception {
        String watched = FOLDER + "/watched";
        DropboxConnectorGrpc.DropboxConnectorBlockingStub stub = DropboxConnectorGrpc.newBlockingStub(channel);
        put("watched/first");
        String token;
        Path restart = Path.of(System.getenv("CONNECTOR_RESTART"));
        try (Watch watch = new Watch(WatchEventsRequest.newBuilder().setPath(watched))) {
            expect(watch.next().hasReady() && !watch.token.isEmpty(), "a watch does not begin with ready and a token");
            // Types are certain once the connector has read the folder.
            int number = 0;
            do {
                put("watched/probe-" + number++);
            } while (watch.change().getBasis() != EventBasis.EVENT_BASIS_INDEX);
            put("watched/a");
            ChangeEvent created = watch.change();
            expect(told(created).equals("CREATED /a"), "no creation: " + created);
            stub.moveItem(MoveItemRequest.newBuilder().setApplicationParameterId(PARAMETER)
                    .setFromPath(watched + "/a").setToPath(watched + "/b").build());
            ChangeEvent moved = watch.change();
            expect(told(moved).equals("MOVED /b") && moved.getPreviousPath().equals(watched + "/a"), "no move: " + moved);
            stub.deleteItem(DeleteItemRequest.newBuilder().setApplicationParameterId(PARAMETER)
                    .setPath(watched + "/b").build());
            ChangeEvent deleted = watch.change();
            expect(told(deleted).equals("DELETED /b"), "no deletion: " + deleted);
            Files.createFile(restart);
            try {
                while (watch.messages.hasNext()) {
                    watch.next();
                }
                throw new AssertionError("a killed connector ends no stream well");
            } catch (StatusRuntimeException broken) {
                token = watch.token;
            }
        }
        while (Files.exists(restart)) {
            Thread.sleep(50);
        }
        // From here on the channel is connected again.
        stub.withWaitForReady().withDeadlineAfter(30, TimeUnit.SECONDS)
                .getServerInfo(GetServerInfoRequest.getDefaultInstance());
        for (String name : List.of("c", "d", "e")) {
            put("watched/" + name);
        }
        try (Watch watch = new Watch(WatchEventsRequest.newBuilder().setPath(watched).setResumeToken(token))) {
            List<String> again = List.of(told(watch.change()), told(watch.change()), told(watch.change()));
            expect(again.equals(List.of("CREATED /c", "CREATED /d", "CREATED /e")), "told " + again);
        }
    }

    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = Channels.open(System.getenv("CONNECTOR_ADDRESS"));
        Conformance conformance = new Conformance(channel);
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("upload_in_chunks_of_1_mib_then_download_gives_the_same_bytes_and_hash",
                conformance::uploadInChunksThenDownload);
        checks.put("a_chunk_of_exactly_4_mib_works", conformance::chunkOfExactly4Mib);
        checks.put("a_chunk_of_5_mib_is_refused_with_the_limit", conformance::chunkOf5MibIsRefused);
        checks.put("an_error_carries_its_details", conformance::errorCarriesItsDetails);
        checks.put("an_error_in_mid_upload_reaches_the_caller", conformance::errorInMidUpload);
        checks.put("a_download_needs_no_larger_receive_limit", conformance::downloadNeedsNoLargerLimit);
        checks.put("an_upload_without_finish_leaves_nothing", conformance::uploadWithoutFinish);
        checks.put("a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed",
                conformance::watchMissesNothing);
        int failed = 0;
        for (Map.Entry<String, Check> check : checks.entrySet()) {
            try {
                check.getValue().run();
                System.out.println("ok java " + check.getKey());
            } catch (Exception | AssertionError failure) {
                failed++;
                System.out.println("not ok java " + check.getKey() + ": " + failure);
            }
        }
        channel.shutdownNow();
        System.exit(failed == 0 ? 0 : 1);
    }
}
