service {
  name = "shop"
  port = 27080
  check {
    http     = "http://127.0.0.1:27080/health"
    interval = "500ms"
    timeout  = "400ms"
  }
  connect {
    sidecar_service {}
  }
}
