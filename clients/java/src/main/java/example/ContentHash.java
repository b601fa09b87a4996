package example;

import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/** Dropbox's content hash: SHA-256 over the SHA-256 of every block of 4 MiB. */
public final class ContentHash {
    private static final int BLOCK = 4 << 20;
    private final MessageDigest blocks = sha256();
    private final MessageDigest block = sha256();
    private int filled;

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException impossible) {
            throw new AssertionError("every Java platform has SHA-256", impossible);
        }
    }

    public ContentHash update(byte[] data) {
        for (int at = 0; at < data.length; ) {
            int length = Math.min(data.length - at, BLOCK - filled);
            block.update(data, at, length);
            at += length;
            filled += length;
            if (filled == BLOCK) {
                closeBlock();
            }
        }
        return this;
    }

    private void closeBlock() {
        blocks.update(block.digest());
        filled = 0;
    }

    /** Ends the hash. */
    public String hex() {
        if (filled > 0) {
            closeBlock();
        }
        return HexFormat.of().formatHex(blocks.digest());
    }
}
