// Lets Prometheus's own Consul discovery find targets in an agent of ours. Prints each set of targets as a line of JSON when it changes,
// and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

func main() {
	config := consul.DefaultSDConfig
	config.Server = os.Args[1]
	config.RefreshInterval = model.Duration(100 * time.Millisecond)
	config.ServiceTags = nil
	discovery, err := consul.NewDiscovery(&config, log.NewNopLogger())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	found := make(chan []*targetgroup.Group)
	go discovery.Run(ctx, found)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
		os.Exit(0)
	}()
	for groups := range found {
		for _, group := range groups {
			if err := json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"source": group.Source, "labels": group.Labels, "targets": group.Targets}); err != nil {
				os.Exit(1)
			}
		}
	}
}
