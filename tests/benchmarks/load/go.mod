module descord.example/benchmark-load

go 1.26.0

require (
	github.com/flynn/noise v1.1.0
	golang.org/x/crypto v0.54.0
)

require golang.org/x/sys v0.47.0 // indirect
