// Probes a port as the kubelet does (k8s.io/kubernetes/pkg/probe/grpc): plaintext, its user agent, one second, no metadata.
// probe ADDRESS SERVICE: exit 0 healthy, 1 not healthy, 2 no health service or no answer.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const timeout = time.Second

func probe(address, service string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	// The kubelet dials so: blocking, within the time of the probe.
	channel, err := grpc.DialContext(ctx, address, //nolint:staticcheck
		grpc.WithUserAgent("kube-probe/1.34"),
		grpc.WithBlock(), //nolint:staticcheck
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 2, fmt.Sprintf("failed to connect within %v: %v", timeout, err)
	}
	defer channel.Close()
	request := &health.HealthCheckRequest{Service: service}
	answer, err := health.NewHealthClient(channel).Check(metadata.NewOutgoingContext(ctx, metadata.MD{}), request)
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return 2, "this port does not implement grpc.health.v1.Health"
		case codes.DeadlineExceeded:
			return 2, fmt.Sprintf("no answer within %v", timeout)
		default:
			return 2, err.Error()
		}
	}
	if answer.Status != health.HealthCheckResponse_SERVING {
		return 1, fmt.Sprintf("service unhealthy (responded with %q)", answer.Status)
	}
	return 0, "service healthy"
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: probe ADDRESS SERVICE")
		os.Exit(2)
	}
	code, text := probe(os.Args[1], os.Args[2])
	fmt.Println(text)
	os.Exit(code)
}
