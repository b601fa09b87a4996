package example;

import com.google.protobuf.ByteString;
import dropboxconnector.v1.DownloadFileRequest;
import dropboxconnector.v1.DownloadFileResponse;
import dropboxconnector.v1.DropboxConnectorGrpc;
import dropboxconnector.v1.UploadChunk;
import dropboxconnector.v1.UploadFileRequest;
import dropboxconnector.v1.UploadFileResponse;
import dropboxconnector.v1.UploadFinish;
import dropboxconnector.v1.UploadSpec;
import io.grpc.Channel;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** Sends files up and down through the connector with nothing but the stubs. */
public final class Transfer {
    private static final int CHUNK = 1 << 20;

    private Transfer() {}

    public static UploadFileRequest first(String parameter, UploadSpec spec) {
        return UploadFileRequest.newBuilder().setApplicationParameterId(parameter).setSpec(spec).build();
    }

    public static UploadFileRequest chunk(byte[] data) {
        return UploadFileRequest.newBuilder().setChunk(UploadChunk.newBuilder().setData(ByteString.copyFrom(data))).build();
    }

    public static UploadFileRequest finish(String contentHash) {
        return UploadFileRequest.newBuilder().setFinish(UploadFinish.newBuilder().setContentHash(contentHash)).build();
    }

    /**
     * Sends frames in order, no faster than the connector takes them. The connector may answer before everything was
     * sent: then {@code onError} or {@code onNext} has come and the rest is not asked for.
     */
    public static UploadFileResponse send(Channel channel, Iterator<UploadFileRequest> frames) throws Exception {
        CompletableFuture<UploadFileResponse> answer = new CompletableFuture<>();
        DropboxConnectorGrpc.newStub(channel).uploadFile(new ClientResponseObserver<UploadFileRequest, UploadFileResponse>() {
            private boolean closed;

            @Override
            public void beforeStart(ClientCallStreamObserver<UploadFileRequest> call) {
                call.setOnReadyHandler(() -> {
                    while (!closed && call.isReady()) {
                        if (frames.hasNext()) {
                            call.onNext(frames.next());
                        } else {
                            closed = true;
                            call.onCompleted();
                        }
                    }
                });
            }

            @Override
            public void onNext(UploadFileResponse response) {
                answer.complete(response);
            }

            @Override
            public void onError(Throwable failure) {
                answer.completeExceptionally(failure);
            }

            @Override
            public void onCompleted() {}
        });
        try {
            return answer.get();
        } catch (ExecutionException failure) {
            throw failure.getCause() instanceof Exception cause ? cause : failure;
        }
    }

    /** Streams a source in chunks of 1 MiB; the server checks the hash before it commits anything. */
    public static UploadFileResponse upload(Channel channel, String parameter, UploadSpec spec, InputStream source)
            throws Exception {
        ContentHash hash = new ContentHash();
        return send(channel, new Iterator<>() {
            private boolean opened;
            private boolean finished;

            @Override
            public boolean hasNext() {
                return !finished;
            }

            @Override
            public UploadFileRequest next() {
                if (!opened) {
                    opened = true;
                    return first(parameter, spec);
                }
                try {
                    byte[] data = source.readNBytes(CHUNK);
                    if (data.length > 0) {
                        hash.update(data);
                        return chunk(data);
                    }
                } catch (IOException failure) {
                    throw new java.io.UncheckedIOException(failure);
                }
                finished = true;
                return finish(hash.hex());
            }
        });
    }

    /** Writes a file into a sink and answers its hash. Without a trailer the stream was cut, whatever its status. */
    public static String download(Channel channel, String parameter, String path, OutputStream sink) throws IOException {
        ContentHash hash = new ContentHash();
        boolean verified = false;
        DownloadFileRequest request =
                DownloadFileRequest.newBuilder().setApplicationParameterId(parameter).setPath(path).build();
        Iterator<DownloadFileResponse> messages = DropboxConnectorGrpc.newBlockingStub(channel).downloadFile(request);
        while (messages.hasNext()) {
            DownloadFileResponse message = messages.next();
            if (message.hasChunk()) {
                byte[] data = message.getChunk().getData().toByteArray();
                hash.update(data);
                sink.write(data);
            } else if (message.hasTrailer()) {
                verified = message.getTrailer().getVerified();
            }
        }
        if (!verified) {
            throw new IOException(path + ": the download is incomplete or not verified");
        }
        return hash.hex();
    }
}
