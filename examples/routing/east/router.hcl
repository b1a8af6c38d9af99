# ada is sent to west, whatever she asks for; below /flaky/ an answer of 503 is tried again, twice at most.
Kind = "service-router"
Name = "shop"
Routes = [
  {
    Match { HTTP { Header = [{ Name = "x-user", Exact = "ada" }] } }
    Destination { Service = "api", Peer = "west" }
  },
  {
    Match { HTTP { PathPrefix = "/flaky/" } }
    Destination { NumRetries = 2, RetryOnStatusCodes = [503] }
  },
]
