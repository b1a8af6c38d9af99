// Drives an agent of ours with Consul's own client: what a program that knows nothing of us does. Prints one line for each thing that
// worked, and ends with 1 at the first that did not.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

func client(address string) *api.Client {
	config := api.DefaultConfig()
	config.Address = address
	c, err := api.NewClient(config)
	must("client", err)
	return c
}

func must(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func check(what string, ok bool, got interface{}) {
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: got %+v\n", what, got)
		os.Exit(1)
	}
}

func done(what string) { fmt.Println(what) }

// until asks again until it is told true.
func until(what string, ask func() (bool, interface{})) {
	var got interface{}
	for i := 0; i < 200; i++ {
		ok, last := ask()
		if ok {
			return
		}
		got = last
		time.Sleep(25 * time.Millisecond)
	}
	check(what, false, got)
}

func main() {
	west, east := client(os.Args[1]), client(os.Args[2])
	services(west)
	locks(west)
	transactions(west)
	queries(west)
	peers(west, east)
	intentions(west)
	operations(west)
}

func services(c *api.Client) {
	self, err := c.Agent().Self()
	must("self", err)
	check("self", self["Config"]["Datacenter"] == "dc1", self["Config"])
	must("register", c.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: "shop-1", Name: "shop", Port: 8080, Tags: []string{"v1"}, Meta: map[string]string{"team": "a"},
		Weights: &api.AgentWeights{Passing: 10, Warning: 1},
		Check:   &api.AgentServiceCheck{TTL: "1h", DeregisterCriticalServiceAfter: "2h"},
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Proxy: &api.AgentServiceConnectProxyConfig{Upstreams: []api.Upstream{{DestinationName: "db", LocalBindPort: 9191}}},
		}},
	}))
	found, meta, err := c.Health().Service("shop", "v1", true, nil)
	must("health", err)
	check("a critical instance is not passing", len(found) == 0, found)
	// A watch: wakes when the check passes, and not before.
	seen := make(chan []*api.ServiceEntry, 1)
	go func() {
		next, _, err := c.Health().Service("shop", "", true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 20 * time.Second})
		must("watch", err)
		seen <- next
	}()
	select {
	case early := <-seen:
		check("the watch waits", false, early)
	case <-time.After(200 * time.Millisecond):
	}
	must("pass", c.Agent().UpdateTTL("service:shop-1", "fine", api.HealthPassing))
	select {
	case next := <-seen:
		check("the watch wakes", len(next) == 1 && next[0].Service.Weights.Passing == 10 && next[0].Checks.AggregatedStatus() == api.HealthPassing, next)
	case <-time.After(5 * time.Second):
		check("the watch wakes", false, "nothing")
	}
	connect, _, err := c.Health().Connect("shop", "", false, nil)
	must("connect", err)
	check("the sidecar is there", len(connect) == 1 && connect[0].Service.Proxy.Upstreams[0].DestinationName == "db", connect)
	must("maintenance on", c.Agent().EnableServiceMaintenance("shop-1", "because"))
	_, info, err := c.Agent().AgentHealthServiceByID("shop-1")
	must("agent health", err)
	check("maintenance", info.AggregatedStatus == api.HealthMaint, info)
	must("maintenance off", c.Agent().DisableServiceMaintenance("shop-1"))
	_, err = c.Catalog().Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.9.9.9", SkipNodeUpdate: false,
		Service: &api.AgentService{ID: "ext", Service: "ext", Port: 1},
		Checks:  api.HealthChecks{{Node: "outside", CheckID: "c", Name: "c", Status: api.HealthPassing, ServiceID: "ext", Definition: api.HealthCheckDefinition{TCP: "10.9.9.9:1", IntervalDuration: time.Second}}},
	}, nil)
	must("catalog register", err)
	nodes, _, err := c.Catalog().Nodes(&api.QueryOptions{Filter: `Node == "outside"`})
	must("nodes", err)
	check("a filter", len(nodes) == 1, nodes)
	done("services")
}

func locks(c *api.Client) {
	first, err := c.LockOpts(&api.LockOptions{Key: "leader", Value: []byte("first"), SessionTTL: "10s", LockDelay: time.Millisecond})
	must("lock options", err)
	lost, err := first.Lock(nil)
	must("lock", err)
	second, err := c.LockOpts(&api.LockOptions{Key: "leader", Value: []byte("second"), LockTryOnce: true, LockWaitTime: 300 * time.Millisecond})
	must("lock options", err)
	held, err := second.Lock(nil)
	must("second lock", err)
	check("a held lock is not given twice", held == nil, held)
	pair, _, err := c.KV().Get("leader", nil)
	must("get", err)
	check("the holder is shown", pair.Session != "" && string(pair.Value) == "first" && pair.LockIndex == 1, pair)
	// The session ends under the holder, who is told.
	_, err = c.Session().Destroy(pair.Session, nil)
	must("destroy", err)
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		check("the holder is told", false, "nothing")
	}
	held, err = second.Lock(nil)
	must("third lock", err)
	check("a lock that is free again is given", held != nil, held)
	must("unlock", second.Unlock())
	semaphore, err := c.SemaphorePrefix("pool", 1)
	must("semaphore options", err)
	_, err = semaphore.Acquire(nil)
	must("semaphore", err)
	must("semaphore release", semaphore.Release())
	done("locks")
}

func transactions(c *api.Client) {
	ok, response, _, err := c.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "txn/a", Value: []byte("1"), Flags: 7}},
		{KV: &api.KVTxnOp{Verb: api.KVGet, Key: "txn/a"}},
		{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: "tn", Address: "10.3.3.3"}}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: "tn", Service: api.AgentService{ID: "ts", Service: "ts", Port: 5}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{Node: "tn", CheckID: "tc", Name: "tc", Status: api.HealthPassing, ServiceID: "ts", Definition: api.HealthCheckDefinition{HTTP: "http://10.3.3.3", IntervalDuration: time.Second, TimeoutDuration: time.Second}}}},
	}, nil)
	must("txn", err)
	check("txn", ok && len(response.Results) == 5 && string(response.Results[1].KV.Value) == "1" && response.Results[1].KV.Flags == 7, response)
	ok, response, _, err = c.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "txn/b", Value: []byte("2")}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: "txn/a", Index: 1}},
	}, nil)
	must("txn", err)
	check("a txn that fails", !ok && response.Errors[0].OpIndex == 1, response)
	pair, _, err := c.KV().Get("txn/b", nil)
	must("get", err)
	check("changes nothing", pair == nil, pair)
	pair, _, err = c.KV().Get("txn/a", nil)
	must("get", err)
	pair.Value = []byte("3")
	ok, _, err = c.KV().CAS(pair, nil)
	must("cas", err)
	check("cas", ok, pair)
	ok, _, err = c.KV().CAS(pair, nil)
	must("cas", err)
	check("cas with a stale index", !ok, pair)
	keys, _, err := c.KV().Keys("txn/", "/", nil)
	must("keys", err)
	check("keys", len(keys) == 1, keys)
	done("transactions")
}

func queries(c *api.Client) {
	id, _, err := c.PreparedQuery().Create(&api.PreparedQueryDefinition{
		Name:    "shops",
		Service: api.ServiceQuery{Service: "shop", OnlyPassing: true, Failover: api.QueryFailoverOptions{Targets: []api.QueryFailoverTarget{{Peer: "east"}}}},
		DNS:     api.QueryDNSOptions{TTL: "10s"},
	}, nil)
	must("query", err)
	answer, _, err := c.PreparedQuery().Execute("shops", nil)
	must("execute", err)
	check("execute", len(answer.Nodes) == 1 && answer.DNS.TTL == "10s", answer)
	all, _, err := c.PreparedQuery().Get(id, nil)
	must("query get", err)
	check("query get", len(all) == 1 && all[0].Service.Failover.Targets[0].Peer == "east", all)
	done("queries")
}

func peers(west, east *api.Client) {
	token, _, err := west.Peerings().GenerateToken(context.Background(), api.PeeringGenerateTokenRequest{PeerName: "east"}, nil)
	must("token", err)
	_, _, err = east.Peerings().Establish(context.Background(), api.PeeringEstablishRequest{PeerName: "west", PeeringToken: token.PeeringToken}, nil)
	must("establish", err)
	until("active", func() (bool, interface{}) {
		peering, _, err := west.Peerings().Read(context.Background(), "east", nil)
		must("peering", err)
		return peering.State == api.PeeringStateActive, peering
	})
	must("register", east.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 7000}))
	_, _, err = east.ConfigEntries().Set(&api.ExportedServicesConfigEntry{
		Name: "default", Services: []api.ExportedService{{Name: "billing", Consumers: []api.ServiceConsumer{{Peer: "west"}}}},
	}, nil)
	must("export", err)
	until("imported", func() (bool, interface{}) {
		found, _, err := west.Health().Service("billing", "", true, &api.QueryOptions{Peer: "east"})
		must("health of a peer", err)
		return len(found) == 1 && found[0].Node.PeerName == "east", found
	})
	all, _, err := west.Peerings().List(context.Background(), nil)
	must("peerings", err)
	check("peerings", len(all) == 1, all)
	done("peers")
}

func intentions(c *api.Client) {
	_, _, err := c.ConfigEntries().Set(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "shop", Protocol: "http"}, nil)
	must("defaults", err)
	_, err = c.Connect().IntentionUpsert(&api.Intention{SourceName: "web", DestinationName: "shop", Action: api.IntentionActionAllow}, nil)
	must("upsert", err)
	all, _, err := c.Connect().Intentions(nil)
	must("intentions", err)
	check("intentions", len(all) == 1 && all[0].SourceName == "web", all)
	allowed, _, err := c.Connect().IntentionCheck(&api.IntentionCheck{Source: "web", Destination: "shop", SourceType: api.IntentionSourceConsul}, nil)
	must("check", err)
	check("check", allowed, allowed)
	roots, _, err := c.Connect().CARoots(nil)
	must("roots", err)
	check("roots", len(roots.Roots) == 1, roots)
	leaf, _, err := c.Agent().ConnectCALeaf("shop", nil)
	must("leaf", err)
	check("leaf", strings.Contains(leaf.CertPEM, "CERTIFICATE"), leaf.ServiceURI)
	may, err := c.Agent().ConnectAuthorize(&api.AgentAuthorizeParams{Target: "shop", ClientCertURI: strings.Replace(leaf.ServiceURI, "/svc/shop", "/svc/web", 1)})
	must("authorize", err)
	check("authorize", may.Authorized, may)
	done("intentions")
}

func operations(c *api.Client) {
	saved, _, err := c.Snapshot().Save(nil)
	must("snapshot", err)
	archive, err := io.ReadAll(saved)
	must("snapshot", err)
	_, err = c.KV().Put(&api.KVPair{Key: "after", Value: []byte("x")}, nil)
	must("put", err)
	must("restore", c.Snapshot().Restore(nil, bytes.NewReader(archive)))
	pair, _, err := c.KV().Get("after", nil)
	must("get", err)
	check("what came after the snapshot is gone", pair == nil, pair)
	pair, _, err = c.KV().Get("txn/a", nil)
	must("get", err)
	check("what was in it is there", pair != nil && string(pair.Value) == "3", pair)
	must("garbage", expectStatus(c.Snapshot().Restore(nil, strings.NewReader("zzz")), 500))
	usage, _, err := c.Operator().Usage(nil)
	must("usage", err)
	check("usage", usage.Usage["dc1"].Nodes >= 2, usage)
	raft, err := c.Operator().RaftGetConfiguration(nil)
	must("raft", err)
	check("raft", len(raft.Servers) == 1 && raft.Servers[0].Leader, raft)
	_, _, err = c.Event().Fire(&api.UserEvent{Name: "deploy", Payload: []byte("p")}, nil)
	must("fire", err)
	events, _, err := c.Event().List("deploy", nil)
	must("events", err)
	check("events", len(events) == 1 && string(events[0].Payload) == "p", events)
	coordinates, _, err := c.Coordinate().Nodes(nil)
	must("coordinates", err)
	check("coordinates", len(coordinates) == 1, coordinates)
	leader, err := c.Status().Leader()
	must("leader", err)
	check("leader", leader != "", leader)
	must("reload", c.Agent().Reload())
	stop := make(chan struct{})
	_, err = c.Agent().Monitor("info", stop, nil)
	must("monitor", err)
	close(stop)
	metrics, err := c.Agent().Metrics()
	must("metrics", err)
	check("metrics", len(metrics.Gauges) > 0, metrics)
	must("deregister", c.Agent().ServiceDeregister("shop-1"))
	_, _, err = c.Agent().Service("shop-1", nil)
	must("a service that is gone", expectStatus(err, 404))
	done("operations")
}

func expectStatus(err error, code int) error {
	var status api.StatusError
	if errors.As(err, &status) && status.Code == code {
		return nil
	}
	if err != nil && strings.Contains(err.Error(), fmt.Sprintf("%d", code)) {
		return nil
	}
	return fmt.Errorf("wanted status %d, got %v", code, err)
}
