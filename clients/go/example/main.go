// Sends a file up and down through the connector and compares the hashes: example ADDRESS PARAMETER FILE.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
	"dropbox-connector/clients/go/transfer"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: example ADDRESS PARAMETER FILE")
	}
	address, parameter, name := os.Args[1], os.Args[2], os.Args[3]
	channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	client := pb.NewDropboxConnectorClient(channel)
	source, err := os.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	path := "/" + filepath.Base(name)
	spec := &pb.UploadSpec{Path: path, WriteMode: pb.WriteMode_WRITE_MODE_OVERWRITE}
	answer, err := transfer.Upload(context.Background(), client, parameter, spec, source)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("up:   %s %d bytes %s\n", answer.Item.PathDisplay, answer.Item.GetFile().Size, answer.ContentHash)
	found, err := transfer.Download(context.Background(), client, parameter, path, io.Discard)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("down: %s\n", found)
	if found != answer.ContentHash {
		os.Exit(1)
	}
}
