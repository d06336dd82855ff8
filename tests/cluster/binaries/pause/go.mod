module moe-operator.dev/testpause

go 1.26.0
