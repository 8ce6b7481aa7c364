{{/* The name of every object, or the beginning of it. */}}
{{- define "mdev-device-plugin.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- $name = .Release.Name }}
{{- else }}
{{- $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- default $name .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What tells this release from others, on every object. */}}
{{- define "mdev-device-plugin.instanceLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The agents' pods and no others. A DaemonSet's selector can't be changed: neither may this. */}}
{{- define "mdev-device-plugin.selectorLabels" -}}
{{ include "mdev-device-plugin.instanceLabels" . }}
app.kubernetes.io/component: agent
{{- end }}

{{/* The labels of every object. */}}
{{- define "mdev-device-plugin.labels" -}}
{{ include "mdev-device-plugin.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mdev-device-plugin.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mdev-device-plugin.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mdev-device-plugin.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* The directory of the simulated node: one for each node, so that another one can take its place. */}}
{{- define "mdev-device-plugin.simulatedNode" -}}
{{- with .Values.simulator }}
{{- .directory }}/{{ if .description }}own-{{ .description | sha256sum | trunc 8 }}{{ else }}{{ .node }}{{ end }}
{{- end }}
{{- end }}

{{/* What containers of a simulated node may do: make device nodes, and nothing else. */}}
{{- define "mdev-device-plugin.simulatorSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [MKNOD]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The resource that `helm test` asks for; nothing where none is known. */}}
{{- define "mdev-device-plugin.testResource" -}}
{{- $discovery := default dict .Values.config.discovery }}
{{- if .Values.test.resource }}
{{- .Values.test.resource }}
{{- else if and .Values.simulator.enabled (not .Values.simulator.description) (eq .Values.simulator.node "samples") (not (omit $discovery "domain")) }}
{{- default "vfio.dev" $discovery.domain }}/mtty-1
{{- end }}
{{- end }}

{{/* Whether the configuration has devices handed over by CDI. */}}
{{- define "mdev-device-plugin.cdi" -}}
{{- $handover := default dict .Values.config.handover }}
{{- default false $handover.cdi }}
{{- end }}
