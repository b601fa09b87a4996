// rclone as released, with the two backends and the commands that the bench uses: the whole program takes ten minutes to build.
package main

import (
	_ "github.com/rclone/rclone/backend/dropbox"
	_ "github.com/rclone/rclone/backend/local"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/copy"
	_ "github.com/rclone/rclone/cmd/copyto"
	_ "github.com/rclone/rclone/cmd/version"
)

func main() { cmd.Main() }
