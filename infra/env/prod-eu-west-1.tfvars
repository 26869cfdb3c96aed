region       = "eu-west-1"
zones        = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
stage        = "prod"
cidr         = "10.1.0.0/16"
nodes_max    = 900
registry     = true
replicate_to = "us-east-1"
# Put your own here: this block is documentation's and reaches nothing.
api_cidrs = ["203.0.113.0/24"]
