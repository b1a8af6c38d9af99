datacenter = "east"
node_name  = "east-1"
bind_addr  = "127.0.0.1"
ports {
  http             = 27500
  dns              = 27600
  grpc_tls         = 27503
  sidecar_min_port = 27510
  sidecar_max_port = 27519
}
