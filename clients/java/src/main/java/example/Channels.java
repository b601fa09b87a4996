package example;

import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.util.concurrent.Executor;

/**
 * How the connector is reached. Plaintext, or TLS where the environment names files: CONNECTOR_CA (authorities of the server),
 * CONNECTOR_CERT and CONNECTOR_KEY (what we show; the key as PKCS #8). CONNECTOR_TOKEN is sent as bearer, over TLS only.
 */
final class Channels {
    private Channels() {}

    static ManagedChannel open(String address) throws IOException {
        return Grpc.newChannelBuilder(address, credentials()).build();
    }

    private static ChannelCredentials credentials() throws IOException {
        String authority = System.getenv("CONNECTOR_CA");
        if (authority == null || authority.isEmpty()) {
            return InsecureChannelCredentials.create();
        }
        TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder().trustManager(new File(authority));
        String certificate = System.getenv("CONNECTOR_CERT");
        if (certificate != null && !certificate.isEmpty()) {
            tls.keyManager(new File(certificate), new File(System.getenv("CONNECTOR_KEY")));
        }
        String token = System.getenv("CONNECTOR_TOKEN");
        if (token == null || token.isEmpty()) {
            return tls.build();
        }
        return CompositeChannelCredentials.create(tls.build(), new Bearer(token));
    }

    private static final class Bearer extends CallCredentials {
        private static final Metadata.Key<String> AUTHORIZATION =
                Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
        private final String token;

        Bearer(String token) {
            this.token = token;
        }

        @Override
        public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
            Metadata metadata = new Metadata();
            metadata.put(AUTHORIZATION, "Bearer " + token);
            applier.apply(metadata);
        }
    }
}
