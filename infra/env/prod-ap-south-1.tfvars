region       = "ap-south-1"
zones        = ["ap-south-1a", "ap-south-1b", "ap-south-1c"]
stage        = "prod"
cidr         = "10.2.0.0/16"
nodes_max    = 900
registry     = true
replicate_to = "eu-west-1"
# Put your own here: this block is documentation's and reaches nothing.
api_cidrs = ["203.0.113.0/24"]
