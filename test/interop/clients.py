"""Drives an agent of ours with the Python client; prints `ok` when everything held."""

import sys
import threading
import time

import consul


def main(host, port):
    client = consul.Consul(host=host, port=port)
    assert client.agent.self()["Config"]["Datacenter"] == "dc1"
    assert client.agent.service.register("web", service_id="web-1", port=80, tags=["v1"], check=consul.Check.ttl("1h"))
    index, found = client.health.service("web", passing=True)
    assert found == [], found
    woken = []

    def watch():
        woken.append(client.health.service("web", passing=True, index=index, wait="10s")[1])

    thread = threading.Thread(target=watch)
    thread.start()
    time.sleep(0.2)
    assert woken == [], "the watch waits"
    client.agent.check.ttl_pass("service:web-1", notes="fine")
    thread.join(5)
    assert [each["Service"]["ID"] for each in woken[0]] == ["web-1"], woken
    session = client.session.create(name="s", ttl=10, lock_delay=0, behavior="release")
    other = client.session.create(name="o", lock_delay=0)
    assert client.kv.put("lock", "a", acquire=session) is True
    assert client.kv.put("lock", "b", acquire=other) is False
    assert client.kv.get("lock")[1]["Session"] == session
    assert client.session.renew(session)["ID"] == session
    assert client.session.destroy(session) is True
    assert client.kv.put("lock", "b", acquire=other) is True
    assert client.kv.put("lock", "b", release=other) is True
    assert client.kv.put("cas", "1", cas=0) is True
    assert client.kv.put("cas", "2", cas=0) is False
    assert client.kv.get("", keys=True)[1] == ["cas", "lock"]
    result = client.txn.put([{"KV": {"Verb": "get", "Key": "cas"}}])
    assert result["Results"][0]["KV"]["Key"] == "cas", result
    query = client.query.create("web", name="webs")["ID"]
    assert len(client.query.execute(query)["Nodes"]) == 1
    assert client.event.fire("deploy", body="x")["Name"] == "deploy"
    assert [node["Node"] for node in client.catalog.nodes()[1]] == ["alpha"]
    assert client.agent.maintenance(True, "because") is True
    assert [check["CheckID"] for check in client.health.state("critical")[1]] == ["_node_maintenance"]
    assert client.agent.maintenance(False) is True
    assert client.status.leader() == "127.0.0.1:8300"
    assert client.agent.service.deregister("web-1")
    print("ok")


main(sys.argv[1], int(sys.argv[2]))
