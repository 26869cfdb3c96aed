region       = "us-east-1"
zones        = ["us-east-1a", "us-east-1b", "us-east-1c"]
stage        = "prod"
cidr         = "10.0.0.0/16"
nodes_max    = 900
registry     = true
replicate_to = "eu-west-1"
# Put your own here: this block is documentation's and reaches nothing.
api_cidrs = ["203.0.113.0/24"]
