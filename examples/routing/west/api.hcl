service {
  name = "api"
  port = 28080
  check {
    http     = "http://127.0.0.1:28080/health"
    interval = "1s"
  }
  connect {
    sidecar_service {}
  }
}
