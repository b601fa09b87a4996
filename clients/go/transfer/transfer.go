// Package transfer sends files up and down through the connector with nothing but the stubs.
package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
)

const (
	chunkBytes = 1 << 20
	blockBytes = 4 << 20
)

// ContentHash is Dropbox's: SHA-256 over the SHA-256 of every block of 4 MiB.
type ContentHash struct {
	blocks, block hash.Hash
	filled        int
}

// NewContentHash begins with an empty file.
func NewContentHash() *ContentHash {
	return &ContentHash{blocks: sha256.New(), block: sha256.New()}
}

// Write never fails.
func (h *ContentHash) Write(data []byte) (int, error) {
	length := len(data)
	for len(data) > 0 {
		piece := data[:min(len(data), blockBytes-h.filled)]
		data = data[len(piece):]
		h.block.Write(piece)
		h.filled += len(piece)
		if h.filled == blockBytes {
			h.closeBlock()
		}
	}
	return length, nil
}

func (h *ContentHash) closeBlock() {
	h.blocks.Write(h.block.Sum(nil))
	h.block.Reset()
	h.filled = 0
}

// Hex ends the hash.
func (h *ContentHash) Hex() string {
	if h.filled > 0 {
		h.closeBlock()
	}
	return hex.EncodeToString(h.blocks.Sum(nil))
}

// Upload streams source in chunks of 1 MiB; the server checks the hash before it commits anything.
func Upload(ctx context.Context, client pb.DropboxConnectorClient, parameter string, spec *pb.UploadSpec, source io.Reader) (*pb.UploadFileResponse, error) {
	stream, err := client.UploadFile(ctx)
	if err != nil {
		return nil, err
	}
	hasher := NewContentHash()
	frames := func() error {
		first := &pb.UploadFileRequest{ApplicationParameterId: parameter, Frame: &pb.UploadFileRequest_Spec{Spec: spec}}
		if err := stream.Send(first); err != nil {
			return err
		}
		for {
			// A fresh buffer each time: what was handed to Send may still be on its way.
			buffer := make([]byte, chunkBytes)
			length, err := io.ReadFull(source, buffer)
			if length > 0 {
				hasher.Write(buffer[:length])
				chunk := &pb.UploadFileRequest_Chunk{Chunk: &pb.UploadChunk{Data: buffer[:length]}}
				if err := stream.Send(&pb.UploadFileRequest{Frame: chunk}); err != nil {
					return err
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				finish := &pb.UploadFileRequest_Finish{Finish: &pb.UploadFinish{ContentHash: hasher.Hex()}}
				return stream.Send(&pb.UploadFileRequest{Frame: finish})
			}
			if err != nil {
				return err
			}
		}
	}
	// io.EOF from Send means that the server has answered already: CloseAndRecv tells what.
	if err := frames(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream.CloseAndRecv()
}

// Download writes a file into sink and answers its hash. Without a trailer the stream was cut, whatever its status.
func Download(ctx context.Context, client pb.DropboxConnectorClient, parameter, path string, sink io.Writer) (string, error) {
	request := &pb.DownloadFileRequest{ApplicationParameterId: parameter, Source: &pb.DownloadFileRequest_Path{Path: path}}
	stream, err := client.DownloadFile(ctx, request)
	if err != nil {
		return "", err
	}
	hasher, verified := NewContentHash(), false
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		if chunk := message.GetChunk(); chunk != nil {
			hasher.Write(chunk.Data)
			if _, err := sink.Write(chunk.Data); err != nil {
				return "", err
			}
		}
		verified = verified || message.GetTrailer().GetVerified()
	}
	if !verified {
		return "", fmt.Errorf("%s: the download is incomplete or not verified", path)
	}
	return hasher.Hex(), nil
}
