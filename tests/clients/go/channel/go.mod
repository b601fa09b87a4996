module dropbox-connector/tests/clients/go/channel

go 1.25.0

require (
	dropbox-connector/clients/go v0.0.0
	golang.org/x/net v0.57.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5
	google.golang.org/grpc v1.84.0
)

require (
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.40.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace dropbox-connector/clients/go => ../../../../clients/go
