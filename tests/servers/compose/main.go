// Command compose says what docker's own command line makes of stack files, so that tests can compare.
//
//	compose VARIABLES FILE...
//
// VARIABLES is a file of `KEY=value` lines. For each file one line of JSON goes to stdout: `config`, as
// `docker stack config` would load it, and what `docker stack deploy` would send to an engine for a stack called
// `stack`: `services` by name, and `networks` by their names there. Or `error`, also where only the conversion for the
// engine refuses the file. Every secret and config that a file refers to is there, with the id `id of NAME`.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/compose/convert"
	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
)

// apiVersion is the engine's that services are converted for.
const apiVersion = "1.47"

type answer struct {
	File     string                           `json:"file"`
	Config   json.RawMessage                  `json:"config,omitempty"`
	Services map[string]swarm.ServiceSpec     `json:"services,omitempty"`
	Networks map[string]network.CreateOptions `json:"networks,omitempty"`
	Error    string                           `json:"error,omitempty"`
}

// engine is one that has every secret and config, and can do nothing else.
type engine struct{ client.APIClient }

func (engine) ClientVersion() string { return apiVersion }

func (engine) SecretList(_ context.Context, options swarm.SecretListOptions) ([]swarm.Secret, error) {
	var secrets []swarm.Secret
	for _, name := range options.Filters.Get("name") {
		spec := swarm.SecretSpec{Annotations: swarm.Annotations{Name: name}}
		secrets = append(secrets, swarm.Secret{ID: "id of " + name, Spec: spec})
	}
	return secrets, nil
}

func (engine) ConfigList(_ context.Context, options swarm.ConfigListOptions) ([]swarm.Config, error) {
	var configs []swarm.Config
	for _, name := range options.Filters.Get("name") {
		spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name}}
		configs = append(configs, swarm.Config{ID: "id of " + name, Spec: spec})
	}
	return configs, nil
}

func main() {
	// Warnings are no answers.
	logrus.SetOutput(io.Discard)
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: compose VARIABLES FILE...")
		os.Exit(2)
	}
	variables, err := readVariables(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	output := json.NewEncoder(os.Stdout)
	for _, file := range os.Args[2:] {
		answer, err := convertFile(file, variables)
		if err != nil {
			answer.Error = err.Error()
		}
		answer.File = file
		if err := output.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func readVariables(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, found := strings.Cut(line, "="); found {
			variables[name] = value
		}
	}
	return variables, nil
}

func convertFile(file string, variables map[string]string) (result answer, err error) {
	// The loader panics on some malformed files; that too is a refusal.
	defer func() {
		if reason := recover(); reason != nil {
			result, err = answer{}, fmt.Errorf("panic: %v", reason)
		}
	}()
	text, err := os.ReadFile(file)
	if err != nil {
		return answer{}, err
	}
	dict, err := loader.ParseYAML(text)
	if err != nil {
		return answer{}, err
	}
	config, err := loader.Load(types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file, Config: dict}},
		Environment: variables,
	})
	if err != nil {
		return answer{}, err
	}
	// The conversion adds labels to what it is given.
	loaded, err := json.Marshal(config)
	if err != nil {
		return answer{}, err
	}
	namespace := convert.NewNamespace("stack")
	services, err := convert.Services(context.Background(), namespace, config, engine{})
	if err != nil {
		return answer{}, err
	}
	networks, _ := convert.Networks(namespace, config.Networks, usedNetworks(config.Services))
	return answer{Config: loaded, Services: services, Networks: networks}, nil
}

// usedNetworks are those that a deployment makes; a service without any is on the default network.
func usedNetworks(services []types.ServiceConfig) map[string]struct{} {
	used := map[string]struct{}{}
	for _, service := range services {
		if len(service.Networks) == 0 {
			used["default"] = struct{}{}
		}
		for name := range service.Networks {
			used[name] = struct{}{}
		}
	}
	return used
}
