region    = "us-east-1"
zones     = ["us-east-1a", "us-east-1b", "us-east-1c"]
stage     = "staging"
cidr      = "10.4.0.0/16"
nodes_max = 60
# Put your own here: this block is documentation's and reaches nothing.
api_cidrs = ["203.0.113.0/24"]
