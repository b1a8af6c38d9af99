# web of east may call everything; below /admin only with a token of staff that says that its bearer is an admin.
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name = "web"
    Peer = "east"
    Permissions = [
      {
        Action = "allow"
        HTTP { PathPrefix = "/admin" }
        JWT { Providers = [{ Name = "staff", VerifyClaims = [{ Path = ["role"], Value = "admin" }] }] }
      },
      { Action = "deny", HTTP { PathPrefix = "/admin" } },
      { Action = "allow", HTTP { PathPrefix = "/" } },
    ]
  },
]
