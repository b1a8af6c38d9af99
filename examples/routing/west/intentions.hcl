Kind = "service-intentions"
Name = "api"
Sources = [{ Name = "web", Peer = "east", Action = "allow" }]
