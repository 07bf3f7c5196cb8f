{{- define "cleanroom.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "cleanroom.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: room
{{- end }}

{{- define "cleanroom.labels" -}}
{{ include "cleanroom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cleanroom.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "cleanroom.arguments" -}}
- run
- --json
- --tier
- {{ .Values.tier }}
{{- if eq .Values.tier "nitro" }}
- --image
- {{ printf "/artifacts/%s" .Values.artifacts.enclaveImage | quote }}
- --image-sha384
- {{ required "artifacts.enclaveImageSha384: expected the SHA-384 from the image's build summary" .Values.artifacts.enclaveImageSha384 | quote }}
- --memory
- {{ .Values.nitro.memoryMiB | quote }}
- --processors
- {{ .Values.nitro.processors | quote }}
{{- else }}
- --enclave
- /usr/bin/cleanroom-enclave-simulated
- --config
- /etc/cleanroom/enclave.toml
{{- end }}
- --model
- {{ printf "/artifacts/%s" .Values.artifacts.model | quote }}
- --listen
- 0.0.0.0:8443
- --metrics
- 0.0.0.0:9100
- --state
- /var/lib/cleanroom/state
{{- if .Values.log.enabled }}
- --log
- /var/lib/cleanroom/log
{{- end }}
- --start-timeout
- {{ .Values.startTimeout }}
- --drain-timeout
- {{ .Values.drainSeconds }}s
- --max-connections
- {{ .Values.limits.maxConnections | quote }}
{{- with .Values.limits.maxConnectionsPerClient }}
- --max-connections-per-client
- {{ . | quote }}
{{- end }}
{{- range .Values.proxyProtocol }}
- --proxy-protocol
- {{ . | quote }}
{{- end }}
{{- range .Values.authorities }}
- --authority
- {{ . | quote }}
{{- end }}
{{- range $name, $url := .Values.brokers }}
- --broker
- {{ printf "%s=%s" $name $url | quote }}
{{- end }}
{{- range .Values.witnesses }}
- --witness
- {{ . | quote }}
{{- end }}
{{- range .Values.extraArguments }}
- {{ . | quote }}
{{- end }}
{{- end }}
