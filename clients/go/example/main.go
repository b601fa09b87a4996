// Sends a file up and down through the connector and compares the hashes: example ADDRESS PARAMETER FILE.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pb "dropbox-connector/clients/go/dropboxconnectorv1"
	"dropbox-connector/clients/go/transfer"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: example ADDRESS PARAMETER FILE")
	}
	address, parameter, name := os.Args[1], os.Args[2], os.Args[3]
	options, err := dialOptions()
	if err != nil {
		log.Fatal(err)
	}
	channel, err := grpc.NewClient(address, options...)
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

// bearer sends a token with every call, over TLS only.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// dialOptions gives plaintext, or TLS where the environment names files: CONNECTOR_CA (authorities of the server),
// CONNECTOR_CERT and CONNECTOR_KEY (what we show). CONNECTOR_TOKEN is sent as bearer.
func dialOptions() ([]grpc.DialOption, error) {
	authority := os.Getenv("CONNECTOR_CA")
	if authority == "" {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM", authority)
	}
	if certificate := os.Getenv("CONNECTOR_CERT"); certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, os.Getenv("CONNECTOR_KEY"))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if token := os.Getenv("CONNECTOR_TOKEN"); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return options, nil
}
