// Lets Traefik's own Consul catalog provider build its routes from an agent of ours. Prints each configuration as a line of JSON, and
// ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v2/pkg/config/dynamic"
	"github.com/traefik/traefik/v2/pkg/provider/consulcatalog"
	"github.com/traefik/traefik/v2/pkg/safe"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	var builder consulcatalog.ProviderBuilder
	builder.SetDefaults()
	builder.Endpoint = &consulcatalog.EndpointConfig{Address: os.Args[1]}
	builder.RefreshInterval = ptypes.Duration(100 * time.Millisecond)
	builder.ExposedByDefault = false
	builder.Watch = true
	found := make(chan dynamic.Message)
	pool := safe.NewPool(context.Background())
	for _, provider := range builder.BuildProviders() {
		must(provider.Init())
		must(provider.Provide(found, pool))
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for message := range found {
		must(json.NewEncoder(os.Stdout).Encode(message.Configuration.HTTP))
	}
}
