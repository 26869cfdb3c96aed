variables {
  cidr      = "10.0.0.0/16"
  zones     = ["us-east-1a", "us-east-1b", "us-east-1c"]
  nodes_max = 900
}

run "the_peak_of_the_plan_fits" {
  assert {
    condition     = output.room_for_nodes == 1535
    error_message = "three /18 hold ${output.room_for_nodes} nodes"
  }
  assert {
    condition     = output.nodes["us-east-1b"] == "10.0.64.0/18" && output.public["us-east-1a"] == "10.0.192.0/24"
    error_message = "the blocks moved: that would make every subnet anew"
  }
}

run "more_nodes_than_addresses_are_refused" {
  command = plan

  variables {
    nodes_max = 1536
  }
  expect_failures = [output.nodes]
}

run "two_zones_are_refused" {
  command = plan

  variables {
    zones = ["us-east-1a", "us-east-1b", "us-east-1b"]
  }
  expect_failures = [var.zones]
}
