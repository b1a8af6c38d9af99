datacenter = "west"
node_name  = "west-1"
bind_addr  = "127.0.0.1"
ports {
  http             = 28500
  dns              = 28600
  grpc_tls         = 28503
  sidecar_min_port = 28510
  sidecar_max_port = 28519
}
