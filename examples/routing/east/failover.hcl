# While nobody here is healthy, api in west serves.
Kind = "service-resolver"
Name = "shop"
Failover = {
  "*" = { Targets = [{ Service = "api", Peer = "west" }] }
}
