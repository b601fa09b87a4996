package example;

import dropboxconnector.v1.UploadFileResponse;
import dropboxconnector.v1.UploadSpec;
import dropboxconnector.v1.WriteMode;
import io.grpc.ManagedChannel;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** Sends a file up and down through the connector and compares the hashes: Example ADDRESS PARAMETER FILE. */
public final class Example {
    private Example() {}

    public static void main(String[] arguments) throws Exception {
        Path file = Path.of(arguments[2]);
        String path = "/" + file.getFileName();
        ManagedChannel channel = Channels.open(arguments[0]);
        boolean same;
        try (InputStream source = Files.newInputStream(file)) {
            UploadSpec spec = UploadSpec.newBuilder().setPath(path).setWriteMode(WriteMode.WRITE_MODE_OVERWRITE).build();
            UploadFileResponse answer = Transfer.upload(channel, arguments[1], spec, source);
            System.out.println("up:   " + answer.getItem().getPathDisplay() + " " + answer.getContentHash());
            String found = Transfer.download(channel, arguments[1], path, OutputStream.nullOutputStream());
            System.out.println("down: " + found);
            same = found.equals(answer.getContentHash());
        } finally {
            channel.shutdownNow();
        }
        System.exit(same ? 0 : 1);
    }
}
