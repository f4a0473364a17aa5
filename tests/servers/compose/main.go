// Command compose says what docker's own command line makes of stack files, so that tests can compare.
//
//	compose VARIABLES FILE...
//
// VARIABLES is a file of `KEY=value` lines. For each file one line of JSON goes to stdout: `config`, as
// `docker stack config` would load it, or `error`, also where only the conversion for the engine refuses it.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/compose/convert"
	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"
	"github.com/sirupsen/logrus"
)

// apiVersion is the engine's that services are converted for.
const apiVersion = "1.47"

type answer struct {
	File   string          `json:"file"`
	Config json.RawMessage `json:"config,omitempty"`
	Error  string          `json:"error,omitempty"`
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
		answer := answer{File: file}
		if config, err := load(file, variables); err != nil {
			answer.Error = err.Error()
		} else {
			answer.Config = config
		}
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

// load also converts, without an engine: secrets and configs, which have to be looked up there, are left out.
func load(file string, variables map[string]string) (loaded json.RawMessage, err error) {
	// The loader panics on some malformed files; that too is a refusal.
	defer func() {
		if reason := recover(); reason != nil {
			loaded, err = nil, fmt.Errorf("panic: %v", reason)
		}
	}()
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dict, err := loader.ParseYAML(text)
	if err != nil {
		return nil, err
	}
	config, err := loader.Load(types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file, Config: dict}},
		Environment: variables,
	})
	if err != nil {
		return nil, err
	}
	// The conversion adds labels to what it is given.
	if loaded, err = json.Marshal(config); err != nil {
		return nil, err
	}
	for _, service := range config.Services {
		_, err := convert.Service(apiVersion, convert.NewNamespace("stack"), service, config.Networks, config.Volumes, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", service.Name, err)
		}
	}
	return loaded, nil
}
