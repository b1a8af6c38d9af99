service {
  name = "web"
  port = 27081
  connect {
    sidecar_service {
      proxy {
        upstreams = [
          { destination_name = "shop", local_bind_port = 27191 },
          { destination_name = "api", destination_peer = "west", local_bind_port = 27192 },
        ]
      }
    }
  }
}
