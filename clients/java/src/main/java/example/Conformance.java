package example;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.ResourceInfo;
import com.google.rpc.RetryInfo;
import dropboxconnector.v1.DownloadFileRequest;
import dropboxconnector.v1.DownloadFileResponse;
import dropboxconnector.v1.DropboxConnectorGrpc;
import dropboxconnector.v1.GetItemRequest;
import dropboxconnector.v1.UploadChunk;
import dropboxconnector.v1.UploadFileRequest;
import dropboxconnector.v1.UploadFileResponse;
import dropboxconnector.v1.UploadSpec;
import dropboxconnector.v1.UploadState;
import io.grpc.ManagedChannel;
import io.grpc.Status.Code;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.Callable;

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
