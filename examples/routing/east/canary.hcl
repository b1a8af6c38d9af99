# Nine of ten requests stay here, one goes to the new api in west.
Kind = "service-splitter"
Name = "shop"
Splits = [
  { Weight = 90 },
  { Weight = 10, Service = "api", Peer = "west" },
]
